//! The demo as a live picture in a terminal, and the keys that act on it.
//!
//! Owns the screen and the keyboard, on a thread of its own, since a terminal may keep its writer waiting. What it shows, an
//! observer gathers; what a key does, the director carries out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph, Row, Table};
use tokio::sync::mpsc;

use super::director::Order;
use super::observer::{NodeSeen, Observer, Pace, Sample};
use super::plain::millis;
use crate::counters::Place;

/// The picture while it is shown.
pub(crate) struct View {
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl View {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// When it cannot be drawn upon.
    pub(crate) fn start(
        observer: Observer,
        orders: mpsc::Sender<Order>,
        quit: mpsc::Sender<()>,
        title: String,
    ) -> Result<View> {
        let over = Arc::new(AtomicBool::new(false));
        let ends = over.clone();
        let mut terminal = ratatui::try_init()?;
        let thread = std::thread::Builder::new().name("view".to_owned()).spawn(move || {
            let mut past = VecDeque::new();
            while !ends.load(Ordering::Relaxed) {
                let sample = observer.sample(Instant::now());
                let pace = past.front().map(|earlier| sample.since(earlier)).unwrap_or_default();
                // Without a screen there is nobody to show anything to.
                if terminal.draw(|frame| draw(frame, &title, &sample, &pace)).is_err() {
                    let _ = quit.try_send(());
                    break;
                }
                if past.len() == RATE_FRAMES {
                    past.pop_front();
                }
                past.push_back(sample);
                match pressed() {
                    Some(Key::Order(order)) => drop(orders.try_send(order)),
                    Some(Key::Quit) => drop(quit.try_send(())),
                    None => {}
                }
            }
            ratatui::restore();
        })?;
        Ok(View { over, thread })
    }

    /// Gives the terminal back.
    pub(crate) async fn stop(self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = tokio::task::spawn_blocking(move || self.thread.join()).await;
    }
}

/// What a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Order(Order),
    Quit,
}

/// Waits for a key until the next picture is due.
fn pressed() -> Option<Key> {
    if !event::poll(FRAME).ok()? {
        return None;
    }
    match event::read().ok()? {
        Event::Key(key) if key.kind == KeyEventKind::Press => meaning(key),
        _ => None,
    }
}

fn meaning(key: KeyEvent) -> Option<Key> {
    match key.code {
        KeyCode::Char('f') => Some(Key::Order(Order::FailOver)),
        KeyCode::Char('r') => Some(Key::Order(Order::ToggleReplica)),
        KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
        // In raw mode it is a key as any other.
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Quit),
        _ => None,
    }
}

fn draw(frame: &mut Frame<'_>, title: &str, sample: &Sample, pace: &Pace) {
    let node_rows = sample.nodes.len() as u16 + TABLE_FRAME;
    let rows = [
        Constraint::Length(2),
        Constraint::Length(node_rows),
        Constraint::Length(7),
        Constraint::Min(4),
        Constraint::Length(1),
    ];
    let [head, nodes, figures, events, keys] = Layout::vertical(rows).areas(frame.area());
    let halves = [Constraint::Percentage(50), Constraint::Percentage(50)];
    let [statements, latencies] = Layout::horizontal(halves).areas(figures);
    let [happened, promises] = Layout::horizontal(halves).areas(events);

    let state = match &sample.writes_halted {
        Some(reason) => {
            Line::from(format!("{:.0} s, writes wait: {reason}", sample.elapsed.as_secs_f64())).red().bold()
        }
        None => Line::from(format!("{:.0} s, reads and writes flow", sample.elapsed.as_secs_f64())).green(),
    };
    frame.render_widget(Paragraph::new(vec![Line::from(title.to_owned()).bold(), state]), head);
    draw_nodes(frame, nodes, &sample.nodes);
    draw_statements(frame, statements, sample, pace);
    draw_latencies(frame, latencies, sample, pace);
    let room = usize::from(happened.height.saturating_sub(2));
    let first = sample.events.len().saturating_sub(room);
    let lines: Vec<Line<'_>> = sample
        .events
        .range(first..)
        .map(|(at, event)| Line::from(format!("{:>6.1} s  {event}", at.as_secs_f64())))
        .collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title("What happened")), happened);
    draw_promises(frame, promises, sample);
    frame.render_widget(Line::from(KEYS).dim(), keys);
}

fn draw_nodes(frame: &mut Frame<'_>, area: Rect, nodes: &[NodeSeen]) {
    let row = |node: &NodeSeen| {
        let color = match node.state {
            "primary" => Color::Green,
            "replica" => Color::Cyan,
            _ => Color::Red,
        };
        let timeline = node.timeline.map_or("-".to_owned(), |timeline| timeline.to_string());
        let lag = if node.state == "replica" { millis(node.lag) } else { String::new() };
        Row::new([node.name.clone(), node.state.to_owned(), timeline, lag]).style(Style::new().fg(color))
    };
    let widths = [Constraint::Length(10), Constraint::Length(14), Constraint::Length(10), Constraint::Min(10)];
    let table = Table::new(nodes.iter().map(row), widths)
        .header(Row::new(["server", "state", "timeline", "lag at most"]).dim())
        .block(Block::bordered().title("Servers, as the proxy sees them"));
    frame.render_widget(table, area);
}

fn draw_statements(frame: &mut Frame<'_>, area: Rect, sample: &Sample, pace: &Pace) {
    let rows =
        Place::ALL.iter().zip(sample.statements).zip(pace.statements_per_second).map(|((place, total), rate)| {
            Row::new([place.as_str().to_owned(), total.to_string(), format!("{rate:.0}/s")])
        });
    let retries = Row::new(["run again".to_owned(), sample.retries.to_string(), String::new()]);
    let widths = [Constraint::Length(12), Constraint::Length(12), Constraint::Min(8)];
    let table = Table::new(rows.chain([retries]), widths)
        .header(Row::new(["to", "statements", "now"]).dim())
        .block(Block::bordered().title("Where statements went"));
    frame.render_widget(table, area);
}

fn draw_latencies(frame: &mut Frame<'_>, area: Rect, sample: &Sample, pace: &Pace) {
    let kinds = [
        ("reads", sample.tally.reads.count, &pace.read_latency),
        ("writes", sample.tally.writes.count, &pace.write_latency),
        ("transactions", sample.tally.transactions.count, &pace.transaction_latency),
    ];
    let rows = kinds.map(|(name, count, latency)| {
        Row::new([name.to_owned(), count.to_string(), millis(latency.quantile(0.5)), millis(latency.quantile(0.99))])
    });
    let widths = [Constraint::Length(14), Constraint::Length(10), Constraint::Length(10), Constraint::Min(8)];
    let title = format!("Players: {:.0} reads/s, {:.0} writes/s", pace.reads_per_second, pace.writes_per_second);
    let table = Table::new(rows, widths)
        .header(Row::new(["", "done", "p50", "p99"]).dim())
        .block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

fn draw_promises(frame: &mut Frame<'_>, area: Rect, sample: &Sample) {
    let tally = &sample.tally;
    let zero = |name: &str, count: u64| {
        let line = Line::from(format!("{name:<24}{count}"));
        if count == 0 { line.green() } else { line.red().bold() }
    };
    let mut lines = vec![
        zero("broken connections", tally.broken_connections),
        zero("stale reads", tally.stale_reads),
        Line::from(format!("{:<24}{}", "longest gap, reads", millis(Some(sample.read_gap)))),
        Line::from(format!("{:<24}{}", "longest gap, writes", millis(Some(sample.write_gap)))),
    ];
    lines.extend(tally.errors.iter().map(|(code, count)| Line::from(format!("{:<24}{count}", meant(code)))));
    lines.extend(tally.findings.iter().map(|finding| Line::from(finding.clone()).red()));
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title("What the players met")), area);
}

/// An SQLSTATE with what it tells an application.
fn meant(code: &str) -> String {
    match code {
        "08007" => format!("{code} outcome unknown"),
        "40001" => format!("{code} to be repeated"),
        "57P03" => format!("{code} no primary"),
        _ => code.to_owned(),
    }
}

const KEYS: &str =
    "f: kill the primary, a replica takes over   r: kill a replica, bring it back   q: end, and count what was lost";

/// From one picture to the next.
const FRAME: Duration = Duration::from_millis(250);

/// Rates are those of the last second.
const RATE_FRAMES: usize = 4;

/// A table's borders and header.
const TABLE_FRAME: u16 = 3;

#[cfg(test)]
mod tests;
