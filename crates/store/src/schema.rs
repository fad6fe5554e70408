//! What brings a database of any release up to this one's schema.

use sqlx::{
    SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
};

/// Files of `migrations`, in their order, without `.sql`. A release only ever adds to the end: databases remember what each
/// file said.
macro_rules! steps {
    ($directory:literal, $($file:literal),+ $(,)?) => {
        &[$(($file, include_str!(concat!("../migrations/", $directory, "/", $file, ".sql")))),+]
    };
}

const SQLITE: &[(&str, &str)] = steps!(
    "sqlite",
    "0001_start",
    "0002_issued",
    "0003_revocation_times",
    "0004_accounts",
    "0005_audit",
    "0006_audit_by_address",
    "0007_notices_phones",
    "0008_imports",
    "0009_audit_log",
    "0010_tenures",
    "0011_revocation_room",
    "0012_figures",
    "0013_lookups",
);

const POSTGRES: &[(&str, &str)] = steps!(
    "postgres",
    "0001_start",
    "0002_revocation_times",
    "0003_accounts",
    "0004_audit",
    "0005_audit_by_address",
    "0006_notices_phones",
    "0007_imports",
    "0008_audit_log",
    "0009_tenures",
    "0010_revocation_room",
    "0011_lookups",
);

pub(crate) fn sqlite() -> Migrator {
    migrator(SQLITE)
}

pub(crate) fn postgres() -> Migrator {
    migrator(POSTGRES)
}

// Listed here and not by `sqlx::migrate!`: that macro alone would have the drivers built a second time, for the compiler.
fn migrator(steps: &'static [(&'static str, &'static str)]) -> Migrator {
    let migrations = (1..).zip(steps).map(|(version, (file, sql))| {
        let name = file.split_once('_').map_or(*file, |(_, name)| name).replace('_', " ");
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[tokio::test]
    async fn every_file_is_a_step_and_each_is_known_as_it_was_to_earlier_releases() {
        for (directory, steps) in [("sqlite", sqlite()), ("postgres", postgres())] {
            let files = Migrator::new(Path::new("migrations").join(directory).as_path()).await.unwrap();
            let known = |migrator: &Migrator| -> Vec<(i64, String, Vec<u8>, bool)> {
                let each = migrator.iter();
                each.map(|step| (step.version, step.description.to_string(), step.checksum.to_vec(), step.no_tx)).collect()
            };
            assert_eq!(known(&steps), known(&files), "{directory}");
        }
    }
}
