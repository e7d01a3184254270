//! `hakem classify`, as it is run by hand and in scripts.

use std::path::Path;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{Setup, executable, run};

/// The answers to statements, in order.
async fn answers(arguments: &[&str], statements: &[&str]) -> Vec<Value> {
    let mut command = Command::new(executable());
    command.arg("classify").args(arguments);
    let questions = statements.iter().enumerate().map(|(id, sql)| json!({"id": id, "sql": sql}).to_string() + "\n");
    let output = run(command, &questions.collect::<String>()).await;
    assert!(output.status.success(), "{output:?}");
    let answers: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), statements.len());
    assert!(answers.iter().enumerate().all(|(id, answer)| answer["id"] == id), "in order");
    answers
}

/// The corpus, about the database that it was recorded with. Without it: `crates/classifier/tests/corpus.rs`.
#[tokio::test]
async fn the_corpus_with_its_database() {
    let stage = Setup::replicas(0).start().await.unwrap();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus");
    let schema = std::fs::read_to_string(corpus.join("schema.sql")).unwrap();
    stage.direct(0, &schema).await;
    let url = stage.cluster.url(stage.cluster.primary());
    for name in ["recorded", "manual", "versions", "adversarial"] {
        let text = std::fs::read_to_string(corpus.join(name).with_extension("jsonl")).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let statements: Vec<&str> = lines.iter().map(|line| line["sql"].as_str().unwrap()).collect();
        let (mut reads, mut missed) = (0, Vec::new());
        for (line, answer) in lines.iter().zip(answers(&["--database", &url], &statements).await) {
            let (sql, access, effect) = (&line["sql"], &answer["access"], &answer["effect"]);
            assert!(line["truth"] == "read" || access == "write", "{name}: {sql} is no read");
            assert!(access == "write" || effect == "none" || effect == "cursor", "{name}: {sql} leaves {effect}");
            if line["truth"] == "read" {
                reads += 1;
                if access == "write" {
                    missed.push(format!("{}: {sql}", answer["why"]));
                }
            }
        }
        println!("{name}: {} of {reads} reads missed", missed.len());
        assert!(missed.len() * 100 < reads * 3, "{name}: {} of {reads}: {missed:#?}", missed.len());
    }
}

#[tokio::test]
async fn an_explanation_of_each() {
    let statements =
        ["/* hakem: replica max_lag=2s */ select lower(a), mine(1) from t; set a.b = 'c'", "select 1", "selec"];
    let found = answers(&["--explain"], &statements).await;
    let explanation = &found[0]["explanation"];
    assert_eq!((&found[0]["access"], &found[0]["why"]), (&json!("write"), &json!("multi_strictest")));
    assert_eq!(explanation["hint"], "replica max_lag=2000000us");
    assert_eq!(explanation["needs"], "primary");
    let parts = explanation["statements"].as_array().unwrap();
    let part = |at: usize, key: &str| parts[at][key].as_str();
    assert_eq!(
        ["access", "why", "because", "effect"].map(|key| part(0, key)),
        [Some("write"), Some("unknown_function"), Some("mine"), None]
    );
    assert_eq!(part(1, "why"), Some("session_state"));
    assert!(part(1, "effect").is_some_and(|effect| effect.contains("SET a.b TO 'c'")), "{explanation}");
    assert_eq!(found[1]["explanation"]["needs"], "replica");
    assert_eq!(found[1]["explanation"]["shape"], "-select 0;");
    assert_eq!((&found[2]["why"], &found[2]["explanation"]["hint"]), (&json!("unknown_statement"), &Value::Null));
    assert!(answers(&[], &statements).await.iter().all(|answer| answer.get("explanation").is_none()));
}
