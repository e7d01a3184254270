//! The lines of `pg_hba.conf` and `pg_ident.conf`, taken apart: fields of words, as PostgreSQL's `next_token` does it.

/// A field: words separated by commas.
pub(crate) type Field = Vec<Word>;

/// A word, and whether it was quoted, which takes its special meaning away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) quoted: bool,
}

impl Word {
    /// The word where it may have a meaning of its own.
    pub(crate) fn keyword(&self) -> Option<&str> {
        (!self.quoted).then_some(self.text.as_str())
    }
}

/// The lines with the number of each; one that ends with a backslash goes on in the next.
pub(crate) fn join(text: &str) -> Vec<(usize, String)> {
    let mut joined: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (at, line) in text.lines().enumerate() {
        let (line, goes_on) = match line.strip_suffix('\\') {
            Some(line) => (line, true),
            None => (line, false),
        };
        match joined.last_mut() {
            Some((_, before)) if open => before.push_str(line),
            _ => joined.push((at + 1, line.to_owned())),
        }
        open = goes_on;
    }
    joined
}

/// The fields of a line, with the words of the files that it names in place of their names.
pub(crate) fn fields(line: &str, read: &mut dyn FnMut(&str) -> Result<String, String>) -> Result<Vec<Field>, String> {
    // Files that name each other many times over would keep us reading for ever.
    let mut files = 0;
    let mut counted = |name: &str| {
        files += 1;
        if files > FILES_MAX { Err("too many files for one line".to_owned()) } else { read(name) }
    };
    expand(split(line)?, &mut counted, 0)
}

fn expand(
    fields: Vec<Field>,
    read: &mut dyn FnMut(&str) -> Result<String, String>,
    depth: usize,
) -> Result<Vec<Field>, String> {
    let mut expanded = Vec::with_capacity(fields.len());
    for field in fields {
        let mut words = Field::new();
        for word in field {
            match word.text.strip_prefix('@') {
                Some(name) if !word.quoted && !name.is_empty() => {
                    if depth == INCLUDES_MAX {
                        return Err(format!("too many files include each other at \"@{name}\""));
                    }
                    let text = read(name).map_err(|reason| format!("cannot read \"@{name}\": {reason}"))?;
                    for (_, line) in join(&text) {
                        words.extend(expand(split(&line)?, read, depth + 1)?.into_iter().flatten());
                    }
                }
                _ => words.push(word),
            }
        }
        // A field that is nothing but an empty file matches nothing, and is there all the same.
        expanded.push(words);
    }
    Ok(expanded)
}

/// Fields are separated by blanks, their words by commas, which may have blanks behind them. Quotes take the meaning from both, and
/// two quotes within them stand for one. A `#` outside of quotes begins a comment.
fn split(line: &str) -> Result<Vec<Field>, String> {
    let mut fields: Vec<Field> = Vec::new();
    let mut letters = line.chars().peekable();
    // Whether the next word belongs to the field of the one before.
    let mut goes_on = false;
    loop {
        while letters.next_if(|letter| letter.is_ascii_whitespace()).is_some() {}
        let (mut word, mut quoted, mut within) = (Word { text: String::new(), quoted: false }, false, false);
        let mut comma = false;
        while let Some(letter) = letters.peek().copied() {
            match letter {
                '"' => {
                    letters.next();
                    if within && letters.peek() == Some(&'"') {
                        letters.next();
                        word.text.push('"');
                        continue;
                    }
                    // Only quotes in front make a word a plain one, as in PostgreSQL: `"all"`, but not `a"ll"`.
                    if word.text.is_empty() && !quoted {
                        word.quoted = true;
                    }
                    quoted = true;
                    within = !within;
                }
                letter if within => {
                    letters.next();
                    word.text.push(letter);
                }
                '#' => break,
                ',' => {
                    letters.next();
                    comma = true;
                    break;
                }
                letter if letter.is_ascii_whitespace() => break,
                letter => {
                    letters.next();
                    word.text.push(letter);
                }
            }
        }
        if within {
            return Err("a quote is not closed".into());
        }
        if word.text.len() > WORD_BYTES_MAX {
            return Err("a word is too long".into());
        }
        let is_word = quoted || !word.text.is_empty();
        if is_word {
            match fields.last_mut() {
                Some(field) if goes_on => field.push(word),
                _ => fields.push(vec![word]),
            }
        }
        match (is_word, comma) {
            (true, comma) => goes_on = comma,
            // Commas without words between them are one.
            (false, true) => {}
            // The end, or a comment.
            (false, false) => return Ok(fields),
        }
    }
}

/// How deep files may include each other; PostgreSQL's CONF_FILE_MAX_DEPTH.
const INCLUDES_MAX: usize = 10;

/// Files that are read for one line.
const FILES_MAX: usize = 1000;

/// The longest word; PostgreSQL's MAX_TOKEN was 256.
const WORD_BYTES_MAX: usize = 10_000;
