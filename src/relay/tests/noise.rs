//! Any bytes at all give replies, a need for more, or an error: never a panic, never a step that takes
//! nothing for ever.

use super::messages::*;
use super::*;

fn client_words() -> Vec<Bytes> {
    vec![
        query("select 1"),
        query("set local x = 1"),
        parse("a", "select 1"),
        parse("", "select set_config('a', 'b', false)"),
        bind("a"),
        bind(""),
        describe("a"),
        describe_portal(""),
        execute(),
        close("a"),
        close_portal(""),
        sync(),
        flush(),
        copy_data("1\n"),
        copy_done(),
        copy_fail("no"),
        function_call(),
    ]
}

fn server_words() -> Vec<Bytes> {
    vec![
        ready(),
        ready_in_transaction(),
        ready_failed(),
        parsed(),
        bound(),
        closed(),
        columns(),
        row(&["1"]),
        takes_parameters(),
        no_data(),
        complete("SELECT 1"),
        complete("SET"),
        complete("DISCARD ALL"),
        nothing_to_run(),
        suspended(),
        error(
            "42601",
            "statement \"DOORMAN_0\", DOORMAN_, DOORMAN_99999999999999999999999",
        ),
        fatal("57P01", "bye"),
        notice("n"),
        notification("c"),
        parameter("TimeZone", "UTC"),
        copy_in(),
        copy_out(),
        copy_data("1\n"),
        copy_done(),
        message(b'V', b"\0\0\0\0"),
    ]
}

/// A word or two, now and then with a byte changed, left out or put in.
fn babble(dice: &mut Dice, words: &[Bytes], faults: bool) -> Bytes {
    let mut said: Bytes = (0..=dice.roll(3))
        .flat_map(|_| words[dice.roll(words.len())].clone())
        .collect();
    if faults && dice.roll(4) == 0 {
        let place = dice.roll(said.len());
        let byte = u8::try_from(dice.roll(256)).unwrap_or(0);
        match dice.roll(3) {
            0 => said[place] = byte,
            1 => {
                said.remove(place);
            }
            _ => said.insert(place, byte),
        }
    }
    said
}

#[test]
fn nothing_anybody_sends_makes_the_relay_panic() {
    let (client, server) = (client_words(), server_words());
    for seed in 1..6_000 {
        let mut dice = Dice(seed);
        let mut between = Between::new();
        between.rules.prepared_per_server = dice.roll(3);
        between.rules.follow_statements = dice.roll(4) > 0;
        if dice.roll(4) == 0 {
            between.rules.mode = Mode::Session;
        }
        let faults = dice.roll(2) == 0;
        for _ in 0..30 {
            let trouble = match dice.roll(8) {
                0..4 => {
                    let said = babble(&mut dice, &client, faults);
                    !matches!(between.try_client(&said), Ok(Wants::More | Wants::Server))
                }
                4..7 => {
                    let said = babble(&mut dice, &server, faults);
                    between.session.link.is_some()
                        && (between.try_server(&said).is_err() || between.try_client(&[]).is_err())
                }
                _ => {
                    between.end_turn();
                    dice.roll(8) == 0
                }
            };
            if trouble {
                break;
            }
        }
        between.client_gone();
        for _ in 0..5 {
            let said = babble(&mut dice, &server, false);
            if between.session.link.is_none() || between.try_server(&said).is_err() {
                break;
            }
        }
    }
}

#[test]
fn noise_does_not_either() {
    for seed in 1..3_000 {
        let mut dice = Dice(seed);
        let noise: Bytes = (0..200)
            .map(|_| {
                let sides = if dice.roll(2) == 0 { 256 } else { 8 };
                u8::try_from(dice.roll(sides)).unwrap_or(0)
            })
            .collect();
        let mut between = Between::new();
        let _ = between.try_client(&noise);
        let mut between = Between::new();
        between.client(&[&query("select 1")]);
        let _ = between.try_server(&noise);
    }
}
