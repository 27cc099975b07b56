//! How long each stage of an answer took, for whoever asks how it was made.

use std::time::Instant;

use serde::{Deserialize, Serialize};

/// A stage of a search and how long it took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// `admit`: the wait for a place among the requests that run; `open`: the table at its version;
    /// `embed`: the vector of a text or a picture; `plan`: the choice of the index, for which the rows that
    /// pass a filter are counted; `start`; `rows`: the wait for the first of them.
    pub name: String,
    /// Microseconds.
    pub micros: u64,
}

/// Tells the stages of an answer apart.
#[derive(Debug)]
pub struct StageClock {
    began: Instant,
    stages: Vec<Stage>,
}

impl StageClock {
    /// Begins the first stage.
    pub fn start() -> Self {
        StageClock { began: Instant::now(), stages: Vec::new() }
    }

    /// Ends a stage and begins the next.
    pub fn end(&mut self, name: &str) {
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.stages.push(Stage { name: name.to_owned(), micros });
        self.began = Instant::now();
    }

    /// What was measured.
    pub fn stages(self) -> Vec<Stage> {
        self.stages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_follow_each_other() {
        let mut clock = StageClock::start();
        std::thread::sleep(std::time::Duration::from_millis(3));
        clock.end("admit");
        clock.end("open");
        let stages = clock.stages();
        let names: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(names, ["admit", "open"]);
        assert!(stages[0].micros >= 3_000);
        assert!(stages[1].micros < stages[0].micros, "the next begins where one ends");
    }
}
