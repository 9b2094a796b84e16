//! `stead doctor`

use std::ffi::OsString;

use clap_complete::engine::ArgValueCompleter;
use serde::Serialize;
use wire::api::machine::{Check, Doctor, Machine, Report, Verdict};
use wire::bytestring::ByteString;

use crate::completion;
use crate::context::Context;
use crate::error::Result;
use crate::output::text::{counted, one_line};
use crate::output::{Align, Cell, Style, Table};

mod local;
mod values;

/// Say what works here, what does not, and how to mend it.
///
/// Without MACHINE it looks at this computer, and needs no daemon. What is only limited works with a restriction. It
/// changes nothing, and succeeds whatever it finds.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A machine to look at instead: whether it can be reached, and what its agent finds
    #[arg(add = ArgValueCompleter::new(completion::machines))]
    machine: Option<OsString>,
}

/// What was found, in JSON.
#[derive(Debug, Serialize)]
struct Document {
    machine: Machine,
    checks: Vec<Check>,
    /// Only of this computer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    values: Vec<Value>,
}

/// A setting and where it comes from.
#[derive(Debug, Serialize)]
struct Value {
    name: &'static str,
    value: ByteString,
    from: String,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let document = match &args.machine {
        Some(text) => {
            let request = Doctor { machine: context.machine(text)?, caller: context.caller() };
            let report = context.daemon()?.call(request)?;
            return show(report, context);
        }
        None => Document {
            machine: Machine::Host,
            checks: local::checks(context),
            values: values::values(context)?,
        },
    };
    print(&document, context)
}

/// Shows what was found of a machine.
pub fn show(report: Report, context: &mut Context) -> Result<()> {
    print(&Document { machine: report.machine, checks: report.checks, values: Vec::new() }, context)
}

/// What a mount through the kernel needs.
pub fn mount_checks(context: &Context) -> Vec<Check> {
    local::mount_checks(context)
}

fn print(document: &Document, context: &mut Context) -> Result<()> {
    if context.output.is_json() {
        return context.output.document(document);
    }
    let mut checks = Table::without_heading(&[Align::Left, Align::Left, Align::Left]);
    for check in &document.checks {
        let (word, style) = match check.verdict {
            Verdict::Works => ("works", Style::Good),
            Verdict::Limited => ("limited", Style::Fair),
            Verdict::Broken => ("broken", Style::Bad),
        };
        checks.row([Cell::styled(word, style), one_line(&check.name).into(), one_line(&check.detail).into()]);
        if let Some(hint) = &check.hint {
            checks.row([
                "".into(),
                "".into(),
                Cell::styled(format!("mend it: {}", one_line(hint)), Style::Head),
            ]);
        }
    }
    context.output.table(&checks)?;
    if !document.values.is_empty() {
        context.output.line("")?;
        let columns = [("SETTING", Align::Left), ("VALUE", Align::Left), ("FROM", Align::Left)];
        let mut values = Table::new(&columns);
        for value in &document.values {
            values.row([value.name.into(), (&value.value).into(), (&value.from).into()]);
        }
        context.output.table(&values)?;
    }
    let of = |verdict| document.checks.iter().filter(|check| check.verdict == verdict).count() as u64;
    let (broken, limited) = (of(Verdict::Broken), of(Verdict::Limited));
    let summary = match (broken, limited) {
        (0, 0) => "everything works".to_owned(),
        (0, limited) => format!("everything works, {} with limits", counted(limited, "thing")),
        (broken, _) => format!("{} broken", counted(broken, "thing")),
    };
    context.output.line("")?;
    context.output.line(summary)
}

#[cfg(test)]
mod tests {
    use wire::api::machine::{Check, Machine, Report, Verdict};

    use crate::fake::{Fake, json};

    #[test]
    fn what_is_broken_comes_with_what_mends_it() {
        let fake = Fake::new(|_, _| {
            let check = |name: &str, verdict, hint: Option<&str>| Check {
                name: name.into(),
                verdict,
                detail: format!("{name}\nis looked at"),
                hint: hint.map(str::to_owned),
            };
            let checks =
                vec![check("ssh", Verdict::Works, None), check("agent", Verdict::Broken, Some("mount /tmp"))];
            Ok(json(&Report { machine: Machine::Host, checks }))
        });
        let ran = fake.run(&["doctor", "host"]);
        let lines: Vec<&str> = ran.out.lines().collect();
        assert_eq!(
            lines,
            [
                "works   ssh    ssh is looked at",
                "broken  agent  agent is looked at",
                "               mend it: mount /tmp",
                "",
                "1 thing broken"
            ]
        );
        assert_eq!(ran.code, 0);
    }

    #[test]
    fn this_computer_is_looked_at_without_a_daemon() {
        let ran = Fake::absent().run(&["doctor", "--json"]);
        let document: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        let checks = document["checks"].as_array().unwrap();
        for check in checks.iter().filter(|check| check["verdict"] == "broken") {
            assert!(check["hint"].is_string(), "{check}");
        }
        let state =
            document["values"].as_array().unwrap().iter().find(|value| value["name"] == "state").unwrap();
        assert_eq!(state["from"], "STEAD_HOME");
    }
}
