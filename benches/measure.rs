//! What a file of this directory measures, in two ways: by time (`cargo bench`, criterion), and for nobody's clock: `--cases` names the
//! cases, one a line, and `--run CASE TIMES` runs one so often and ends. `.ci/instructions` counts instructions by that.

use criterion::Criterion;

/// One thing to measure.
pub(crate) struct Case {
    name: &'static str,
    run: Box<dyn FnMut()>,
}

impl Case {
    /// What is run again and again; what it needs is made beforehand.
    pub(crate) fn new<T>(name: &'static str, mut run: impl FnMut() -> T + 'static) -> Case {
        Case { name, run: Box::new(move || drop(std::hint::black_box(run()))) }
    }
}

/// Measures as the command line says.
pub(crate) fn measure(mut cases: Vec<Case>) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--cases"] => cases.iter().for_each(|case| println!("{}", case.name)),
        ["--run", name, times] => {
            let case = cases.iter_mut().find(|case| case.name == name).expect("a case that --cases names");
            for _ in 0..times.parse::<u64>().expect("a number") {
                (case.run)();
            }
        }
        _ => {
            let mut criterion = Criterion::default().configure_from_args();
            for case in &mut cases {
                criterion.bench_function(case.name, |bencher| bencher.iter(|| (case.run)()));
            }
            criterion.final_summary();
        }
    }
}
