use super::*;
use crate::server::EpochRecord;

fn state(record: Option<(u64, &str, bool, u64)>) -> ServerState {
    let record = record.map(|(epoch, run, seeded, place)| EpochRecord {
        epoch,
        run_id: run.into(),
        seeded,
        place,
        ahead: None,
        whole: true,
    });
    ServerState { run_id: "here".into(), now_micros: 0, record, writer_seen_ms: None }
}

fn open(epoch: u64) -> Move {
    Move::Open { epoch, keep_positions: true }
}

fn at(epoch: u64, place: u64) -> Position {
    Position::new(epoch, place).unwrap()
}

#[test]
fn an_epoch_is_opened_whenever_the_server_may_lack_something_and_joined_where_another_writer_opened_it() {
    for (what, record, held, floor, expected) in [
        ("an empty server", None, 0, Position::ZERO, open(1)),
        ("a wiped server", None, 5, at(5, 9), open(6)),
        ("agreement", Some((5, "here", true, 9)), 5, at(5, 9), Move::Use(5)),
        ("agreement on one being seeded", Some((5, "here", false, 0)), 5, at(4, 9), Move::Use(5)),
        ("another writer's opening", Some((6, "here", false, 0)), 5, at(5, 9), Move::Join(6)),
        ("a restored database", Some((6, "here", true, 3)), 2, at(2, 1), open(7)),
        ("an opening that was not carried out", Some((5, "here", true, 9)), 6, at(5, 9), open(7)),
        ("another run of the server", Some((5, "before", true, 9)), 5, at(5, 9), open(6)),
        ("another run, unseeded", Some((9, "before", false, 0)), 5, at(5, 9), open(10)),
        ("a tail behind what was published", Some((5, "here", true, 8)), 5, at(5, 9), open(6)),
        ("no epoch left", Some((131_071, "before", true, 0)), 5, at(5, 9), Move::Exhausted),
    ] {
        assert_eq!(next_move(&state(record), held, floor), expected, "{what}");
    }
}

#[test]
fn a_reader_that_holds_more_than_the_server_moves_the_epoch_past_what_it_holds() {
    let mut state = state(Some((5, "here", true, 9)));
    for (ahead, epoch) in [(at(5, 7), 6), (at(5, 10), 6), (at(40, 1), 41)] {
        if let Some(record) = &mut state.record {
            record.ahead = Some(ahead);
        }
        let expected = Move::Open { epoch, keep_positions: false };
        assert_eq!(next_move(&state, 5, at(5, 9)), expected, "{ahead}");
    }
}

#[test]
fn a_server_of_whose_live_set_a_part_is_gone_is_seeded_again() {
    let mut state = state(Some((5, "here", true, 9)));
    if let Some(record) = &mut state.record {
        record.whole = false;
    }
    assert_eq!(next_move(&state, 5, at(5, 9)), open(6));
}
