//! Transactions are there whole, or not at all.

use std::fmt::Write;

use crate::Program;
use crate::faults::job::{COMPANY_DEADLINE, Task};

const TRANSACTIONS: u32 = 12;
const ROWS: u32 = 8;

pub fn wal(task: &mut Task) {
    exercise(task, "wal");
}

pub fn rollback(task: &mut Task) {
    exercise(task, "delete");
}

fn exercise(task: &mut Task, journal: &str) {
    let schema = "create table t(number integer primary key, filler text); create index i on t(filler);";
    let made = sql(task, &format!("pragma journal_mode={journal};\n{schema}"));
    assert_eq!(made, format!("{journal}\n"));
    let mut number = 0;
    for _ in 0..task.rounds {
        let mut text = String::new();
        for transaction in 0..TRANSACTIONS {
            text += "begin immediate;\n";
            for _ in 0..ROWS {
                let filler = task.dice.draw();
                // Writing to a string does not fail.
                let _written = writeln!(text, "insert into t values ({number}, '{filler:0>300}');");
                number += 1;
            }
            text += if transaction % 4 == 3 { "rollback;\n" } else { "commit;\n" };
            if transaction % 4 == 3 {
                number -= ROWS;
            }
        }
        assert_eq!(sql(task, &text), "", "what the transactions print");
        let counted = sql(task, "pragma integrity_check; select count(*), max(number) from t;");
        assert_eq!(counted, format!("ok\n{number}|{}\n", number - 1), "what is in the database");
    }
}

#[track_caller]
fn sql(task: &Task, text: &str) -> String {
    let program = Program::new("sqlite3").args(["-batch", "-cmd", ".timeout 60000", "-bail"]);
    let finished = program.arg(task.path("db")).input(text).deadline(COMPANY_DEADLINE).ok();
    assert!(finished.stderr.is_empty(), "{finished}");
    finished.text()
}
