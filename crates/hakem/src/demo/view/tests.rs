//! What is on the screen, drawn into memory.

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;

fn screen(sample: &Sample) -> String {
    let mut terminal = Terminal::new(TestBackend::new(120, 30)).expect("memory can be drawn upon");
    terminal.draw(|frame| draw(frame, "psql", sample, &Pace::default())).expect("memory can be drawn upon");
    let buffer = terminal.backend().buffer();
    let line = |row: u16| (0..120).map(|column| buffer[(column, row)].symbol()).collect::<String>();
    // How wide a column is does not matter.
    let words = |line: String| line.split_whitespace().collect::<Vec<_>>().join(" ");
    (0..30).map(line).map(words).collect::<Vec<_>>().join("\n")
}

#[test]
fn everything_is_shown() {
    let mut sample = Sample { statements: [11, 22, 33], retries: 44, ..Sample::default() };
    let node = |name: &str, state, lag| NodeSeen {
        name: name.to_owned(),
        state,
        timeline: Some(7),
        lag: Some(Duration::from_millis(lag)),
    };
    sample.nodes = vec![node("node0", "primary", 0), node("node1", "replica", 123)];
    sample.events.push_back((Duration::from_secs(5), "kill -9 of the primary node2".to_owned()));
    sample.tally.failed("08007");
    sample.tally.found("a surprise".to_owned());
    let check = |sample: &Sample, wanted: &str| {
        let shown = screen(sample);
        assert!(shown.contains(wanted), "{wanted} is missing:\n{shown}");
    };
    for wanted in ["node1 replica 7 123 ms", "primary 11", "replica 22", "held 33", "run again 44"] {
        check(&sample, wanted);
    }
    for wanted in ["5.0 s kill -9 of the primary node2", "08007 outcome unknown", "a surprise", "reads and writes flow"]
    {
        check(&sample, wanted);
    }
    sample.writes_halted = Some("split brain".to_owned());
    check(&sample, "writes wait: split brain");
}

#[test]
fn a_small_screen_is_no_reason_to_panic() {
    for (width, height) in [(1, 1), (20, 5), (80, 24)] {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory can be drawn upon");
        let sample = Sample::default();
        terminal.draw(|frame| draw(frame, "psql", &sample, &Pace::default())).expect("memory can be drawn upon");
    }
}

#[test]
fn keys() {
    let check = |code, modifiers, wanted| assert_eq!(meaning(KeyEvent::new(code, modifiers)), wanted);
    check(KeyCode::Char('f'), KeyModifiers::NONE, Some(Key::Order(Order::FailOver)));
    check(KeyCode::Char('r'), KeyModifiers::NONE, Some(Key::Order(Order::ToggleReplica)));
    check(KeyCode::Char('q'), KeyModifiers::NONE, Some(Key::Quit));
    check(KeyCode::Char('c'), KeyModifiers::CONTROL, Some(Key::Quit));
    check(KeyCode::Char('c'), KeyModifiers::NONE, None);
}
