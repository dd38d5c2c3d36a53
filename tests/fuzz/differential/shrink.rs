//! Makes a failing sequence short: leaves out steps and messages for as long as it still fails in the same way.

use std::time::{Duration, Instant};

use crate::step::{Leave, Step};

/// The shortest sequence that was found within this time for which `fails` is true.
pub fn shrink(
    mut steps: Vec<Step>,
    most: Duration,
    mut fails: impl FnMut(&[Step]) -> bool,
) -> Vec<Step> {
    let start = Instant::now();
    let mut size = steps.len().div_ceil(2);
    while size > 0 && start.elapsed() < most {
        let mut shorter = false;
        let mut at = 0;
        while at < steps.len() && start.elapsed() < most {
            let end = (at + size).min(steps.len());
            let rest = [&steps[..at], &steps[end..]].concat();
            if !rest.is_empty() && fails(&rest) {
                steps = rest;
                shorter = true;
            } else {
                at = end;
            }
        }
        if !shorter || size > 1 {
            size /= 2;
        }
    }
    let mut at = 0;
    while at < steps.len() && start.elapsed() < most {
        let count = messages(&steps[at]);
        let mut message = count;
        while message > 0 && start.elapsed() < most {
            message -= 1;
            let mut rest = steps.clone();
            rest[at] = without(&steps[at], message);
            if fails(&rest) {
                steps = rest;
            }
        }
        at += 1;
    }
    steps
}

fn messages(step: &Step) -> usize {
    match step {
        Step::Send(_, all) | Step::Leave(_, Leave::Terminate(all) | Leave::Run(all)) => all.len(),
        Step::Login(_, settings) => settings.len(),
        _ => 0,
    }
}

fn without(step: &Step, at: usize) -> Step {
    let mut step = step.clone();
    match &mut step {
        Step::Send(_, all) | Step::Leave(_, Leave::Terminate(all) | Leave::Run(all)) => {
            all.remove(at);
        }
        Step::Login(_, settings) => {
            settings.remove(at);
        }
        _ => {}
    }
    step
}
