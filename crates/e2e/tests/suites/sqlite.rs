use std::path::Path;

use e2e::{Place, Program, suites};

const ROWS_PER_WRITER: usize = 200;

suites! {
    fn sqlite_keeps_its_integrity_with_a_rollback_journal(p) {
        exercise(p, "delete");
    }

    fn sqlite_keeps_its_integrity_with_a_write_ahead_log(p) {
        exercise(p, "wal");
    }

    fn sqlite_reads_on_the_machine_what_was_written_here(p) {
        let database = p.path("db");
        sql(&database, "create table t(x); insert into t values (1), (2), (3);");
        assert_eq!(sql(&p.far_path("db"), "select sum(x) from t;"), "6\n");
        sql(&p.far_path("db"), "insert into t values (4);");
        assert_eq!(sql(&database, "select sum(x) from t;"), "10\n");
    }
}

fn exercise(p: &Place, journal: &str) {
    let database = p.path("db");
    assert_eq!(sql(&database, &format!("pragma journal_mode={journal};")), format!("{journal}\n"));
    sql(
        &database,
        "create table t(writer integer, number integer, filler text); create index i on t(number);",
    );
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let database = &database;
            scope.spawn(move || {
                let rows: String = (0..ROWS_PER_WRITER)
                    .map(|number| {
                        format!("insert into t values ({writer}, {number}, hex(randomblob(500)));\n")
                    })
                    .collect();
                sql(database, &rows);
            });
        }
    });
    let per_writer = format!("0|{ROWS_PER_WRITER}\n1|{ROWS_PER_WRITER}\n");
    assert_eq!(sql(&database, "select writer, count(*) from t group by writer;"), per_writer);
    sql(&database, "begin; delete from t where writer = 0; rollback;");
    sql(&database, "delete from t where number % 3 = 0; vacuum;");
    assert_eq!(sql(&database, "pragma integrity_check;"), "ok\n");
    assert_eq!(sql(&p.far_path("db"), "pragma integrity_check;"), "ok\n");
}

#[track_caller]
fn sql(database: &Path, text: &str) -> String {
    let finished =
        Program::new("sqlite3").args(["-cmd", ".timeout 60000", "-bail"]).arg(database).input(text).ok();
    assert!(finished.stderr.is_empty(), "{finished}");
    finished.text()
}
