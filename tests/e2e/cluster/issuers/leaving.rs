//! What becomes of the people of a policy that is deleted.

use serde_json::json;

use super::served::Served;
use crate::{
    attacks::PASSWORD,
    cluster::{enforcement::ring_of, world::LONG},
    rig::{PATIENCE, object_path},
};

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn the_people_of_a_deleted_policy_are_erased_when_its_time_is_over_and_another_of_its_name_gets_none() {
    let served = Served::shared();
    let policy = served.with_login("leaving");
    let (api, object) = (served.world.api(), object_path(&policy));
    let account = json!({"username": "ann", "email": "ann@shop.example", "password": PASSWORD});
    let register = || served.post("/leaving/shop/auth/register", None, &account).status;
    assert_eq!((register(), register()), (201, 409));

    // Made again in time it has its people again.
    api.delete(&object);
    api.wait_gone(&object, PATIENCE);
    served.with_login_and("leaving", |spec| spec["retainAfterDelete"] = "2s".into());
    assert_eq!(register(), 409);

    let ring = ring_of(&served.world, "leaving/shop");
    api.delete(&object);
    api.wait_gone(&ring, LONG);
    served.with_login("leaving");
    assert_eq!(register(), 201);
}
