//! The process that measures other people's attention: a Python script beside the program.
//!
//! It is started once and asked a line at a time. Whatever goes wrong with it is an error of a peer or
//! a sentence for the user, never of the bench.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Peer, Request};

const SCRIPT: &str = "gpu_sdpa.py";
/// The import of a large library from a cold disk.
const START: Duration = Duration::from_secs(180);
/// Every peer of one row, compilation of their kernels included.
const ANSWER: Duration = Duration::from_secs(600);

/// Why there are no peers.
#[derive(Debug, thiserror::Error)]
pub enum NoPeers {
    /// The script is nowhere.
    #[error("{name} was not found (looked in {}); set THERIA_PEERS to its path", looked.join(", "))]
    NoScript {
        /// Its name.
        name: String,
        /// Where it was looked for.
        looked: Vec<String>,
    },
    /// Python does not start.
    #[error("{python} does not start: {source}; set THERIA_PYTHON to a Python that has torch")]
    NoPython {
        /// The program.
        python: String,
        /// Why.
        source: std::io::Error,
    },
    /// It started, and cannot measure.
    #[error("{0}; set THERIA_PYTHON to a Python that has torch")]
    Unable(String),
}

/// What the machine can do, as the peers measured it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ceiling {
    /// A large matrix product.
    pub matmul_tflops: Option<f64>,
    /// A large copy, bytes read and written.
    pub copy_gbps: Option<f64>,
}

/// The process.
#[derive(Debug)]
pub struct Peers {
    child: Child,
    requests: Option<ChildStdin>,
    answers: Receiver<String>,
    device: &'static str,
    /// What it said of itself.
    pub about: Value,
}

impl Peers {
    /// Starts it: `THERIA_PYTHON`, or `python3`, with `THERIA_PEERS`, or the script beside the program,
    /// or that of the source tree.
    pub fn start(device: &'static str) -> Result<Self, NoPeers> {
        Self::start_with(&python(), &script(SCRIPT)?, device)
    }

    /// Starts that of this interpreter and script.
    pub fn start_with(python: &OsString, script: &Path, device: &'static str) -> Result<Self, NoPeers> {
        let child = Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child
            .map_err(|source| NoPeers::NoPython { python: python.to_string_lossy().into_owned(), source })?;
        let output = child.stdout.take().ok_or_else(|| NoPeers::Unable("its output is closed".to_owned()))?;
        let (sender, answers) = mpsc::channel();
        std::thread::spawn(move || {
            // Ends with the process, or with whoever listens.
            BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)).ok()
        });
        let requests = child.stdin.take();
        let mut peers = Self { child, requests, answers, device, about: Value::Null };
        peers.about = peers.ask(&json!({"hello": true, "device": device}), START).map_err(NoPeers::Unable)?;
        match peers.about["error"].as_str() {
            Some(error) => Err(NoPeers::Unable(error.to_owned())),
            None => Ok(peers),
        }
    }

    /// Measures every peer on a row.
    pub fn measure(&mut self, request: &Request) -> Vec<Peer> {
        match self.ask(&request.json(), ANSWER) {
            Ok(answer) => Peer::of_answer(&answer),
            Err(error) => vec![Peer::failed("pytorch", error)],
        }
    }

    /// Measures the ceilings.
    pub fn ceiling(&mut self) -> Result<Ceiling, String> {
        let answer = self.ask(&json!({"ceiling": true, "device": self.device}), ANSWER)?;
        if let Some(error) = answer["error"].as_str() {
            return Err(error.to_owned());
        }
        Ok(Ceiling {
            matmul_tflops: answer["matmul_tflops"].as_f64(),
            copy_gbps: answer["copy_gbps"].as_f64(),
        })
    }

    fn ask(&mut self, question: &Value, patience: Duration) -> Result<Value, String> {
        let gone = "the process of the peers has ended; what it said stands above";
        let requests = self.requests.as_mut().ok_or(gone)?;
        if writeln!(requests, "{question}").and_then(|()| requests.flush()).is_err() {
            self.requests = None;
            return Err(gone.to_owned());
        }
        match self.answers.recv_timeout(patience) {
            Ok(line) => {
                serde_json::from_str(&line).map_err(|_| format!("the peers answered no JSON: {line}"))
            }
            Err(RecvTimeoutError::Disconnected) => {
                self.requests = None;
                Err(gone.to_owned())
            }
            Err(RecvTimeoutError::Timeout) => {
                // A late answer would be taken for that of the next question.
                self.requests = None;
                let _ = self.child.kill();
                Err(format!("the peers did not answer in {} s and were stopped", patience.as_secs()))
            }
        }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // The end of its input is its end; one that hangs is not waited for.
        self.requests = None;
        for _ in 0..50 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Python of the peers.
pub(crate) fn python() -> OsString {
    std::env::var_os("THERIA_PYTHON").unwrap_or_else(|| OsString::from("python3"))
}

/// Where a script is. Scripts lie side by side, so the path of one names the folder of all.
pub(crate) fn script(name: &str) -> Result<PathBuf, NoPeers> {
    if let Some(path) = std::env::var_os("THERIA_PEERS").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        let path = match (path.is_dir(), name) {
            (true, _) => path.join(name),
            (false, SCRIPT) => path,
            (false, _) => path.with_file_name(name),
        };
        return found(name, &[path]);
    }
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("peers").join(name)));
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/peers").join(name);
    found(name, &beside.into_iter().chain([sources]).collect::<Vec<_>>())
}

fn found(name: &str, places: &[PathBuf]) -> Result<PathBuf, NoPeers> {
    let there = places.iter().find(|place| place.is_file()).cloned();
    there.ok_or_else(|| NoPeers::NoScript {
        name: name.to_owned(),
        looked: places.iter().map(|place| place.display().to_string()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell in the place of Python: it runs a script all the same.
    fn start(script: &str) -> Result<Peers, NoPeers> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers.sh");
        std::fs::write(&path, script).unwrap();
        Peers::start_with(&OsString::from("sh"), &path, "cpu")
    }

    #[test]
    fn every_question_is_a_line_and_so_is_every_answer() {
        let script = "read q; echo '{\"torch\": \"2\"}'\nread q; echo '{\"matmul_tflops\": 0.5, \"copy_gbps\": null}'\n";
        let mut peers = start(script).unwrap();
        assert_eq!(peers.about["torch"], "2");
        let ceiling = peers.ceiling().unwrap();
        assert_eq!(ceiling, Ceiling { matmul_tflops: Some(0.5), copy_gbps: None });
        assert!(peers.ceiling().unwrap_err().contains("has ended"));
        assert!(peers.ceiling().unwrap_err().contains("has ended"), "and stays so");
    }

    #[test]
    fn a_process_that_cannot_measure_says_so_in_a_sentence() {
        let unable = start("read q; echo '{\"error\": \"no torch here\"}'\n").unwrap_err().to_string();
        assert!(unable.contains("no torch here") && unable.contains("THERIA_PYTHON"), "{unable}");
        assert!(start("exit 1\n").unwrap_err().to_string().contains("has ended"));
        assert!(start("read q; echo hello\n").unwrap_err().to_string().contains("no JSON"));
        let missing =
            Peers::start_with(&OsString::from("no-such-python"), Path::new("x"), "cpu").unwrap_err();
        assert!(missing.to_string().contains("no-such-python does not start"), "{missing}");
        let nowhere = found("script.py", &[PathBuf::from("no/such/script.py")]).unwrap_err().to_string();
        assert!(
            nowhere.starts_with("script.py was")
                && nowhere.contains("no/such/script.py")
                && nowhere.contains("THERIA_PEERS"),
            "{nowhere}"
        );
    }

    #[test]
    fn the_script_of_the_sources_answers_whether_or_not_it_can_measure() {
        let python = OsString::from("python3");
        match Peers::start_with(&python, &script(SCRIPT).unwrap(), "cpu") {
            Ok(peers) => assert!(peers.about["torch"].is_string(), "{}", peers.about),
            Err(NoPeers::NoPython { .. }) => {}
            Err(error) => assert!(error.to_string().contains("torch ("), "{error}"),
        }
    }
}
