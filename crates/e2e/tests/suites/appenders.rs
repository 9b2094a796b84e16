use e2e::{Program, suites};

const ROUNDS: usize = 100;

suites! {
    fn two_processes_append_under_a_lock(p) {
        let script = "for i in $(seq $2); do flock \"$1.lock\" sh -c 'echo \"$1 $2 whole line\" >> \"$0\"' \"$1\" $3 $i; done";
        let file = p.file("log", "");
        std::thread::scope(|scope| {
            for writer in ["one", "two"] {
                let file = &file;
                scope.spawn(move || {
                    let shell = Program::new("sh").args(["-ec", script, "sh"]).arg(file);
                    shell.args([&ROUNDS.to_string(), writer]).ok();
                });
            }
        });
        let text = std::fs::read_to_string(p.far_path("log")).unwrap();
        for writer in ["one", "two"] {
            let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(writer)).collect();
            let expected: Vec<String> = (1..=ROUNDS).map(|number| format!("{writer} {number} whole line")).collect();
            assert_eq!(lines, expected, "each writer's lines are all there and in their order");
        }
        assert_eq!(text.lines().count(), 2 * ROUNDS);
    }

    fn a_counter_under_a_lock_loses_no_step(p) {
        let script = "for i in $(seq $2); do flock \"$1.lock\" sh -c 'n=$(cat \"$0\"); echo $((n + 1)) > \"$0\"' \"$1\"; done";
        let file = p.file("counter", "0\n");
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let file = &file;
                scope.spawn(move || Program::new("sh").args(["-ec", script, "sh"]).arg(file).arg(ROUNDS.to_string()).ok());
            }
        });
        assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), (2 * ROUNDS).to_string());
        assert_eq!(std::fs::read_to_string(p.far_path("counter")).unwrap().trim(), (2 * ROUNDS).to_string());
    }
}
