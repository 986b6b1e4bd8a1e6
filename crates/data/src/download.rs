//! One download from a mirror, with a bound on every wait and lines about the progress.
//!
//! The request runs on its own thread and sends the body through a channel, piece by piece. So no state of the network,
//! of a proxy or of the TLS layer can block the caller for longer than the bounds. A thread whose caller has given up
//! ends at the time limit of its request. This file does not know what the bytes are.

use std::io::{self, Read};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

/// Receives lines about the progress, written for a person.
pub type Tell<'a> = &'a dyn Fn(&str);

/// Bytes of a piece.
const PIECE_BYTES: usize = 64 << 10;
/// The most pieces that wait in the channel.
const PIECES: usize = 16;

/// How long each step may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// From the call to the start of the answer: name lookup, connection, proxy, TLS, request.
    pub(crate) answer: Duration,
    /// Between two pieces.
    pub(crate) silence: Duration,
    /// Between two lines about the progress.
    pub(crate) tell: Duration,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// The server has answered, but not with this file.
    Refused(String),
    /// No server has answered.
    Silent(String),
}

enum Piece {
    /// The answer has begun; its length in bytes, if the server tells it.
    Begun(Option<u64>),
    Bytes(Vec<u8>),
    /// The answer is complete.
    End,
    NoAnswer(NoAnswer),
    Broken(io::Error),
}

/// The body of an answer.
pub(crate) struct Body<'a> {
    pieces: Receiver<Piece>,
    piece: io::Cursor<Vec<u8>>,
    bounds: Bounds,
    progress: Progress<'a>,
}

struct Progress<'a> {
    tell: Tell<'a>,
    what: String,
    begun: Instant,
    told: Instant,
    bytes: u64,
    total: Option<u64>,
}

/// Requests `url` and returns the body of the answer, of at most `limit` bytes.
pub(crate) fn get<'a>(
    agent: &ureq::Agent,
    url: &str,
    limit: u64,
    bounds: Bounds,
    tell: Tell<'a>,
) -> Result<Body<'a>, NoAnswer> {
    let (sender, pieces) = mpsc::sync_channel(PIECES);
    let proxy = proxy(agent, url);
    let way = proxy.as_ref().map_or(String::new(), |proxy| format!(", by the proxy {proxy}"));
    tell(&format!("Fetching {url}{way}"));
    let (asking, address) = (agent.clone(), url.to_owned());
    thread::Builder::new()
        .name("download".into())
        .spawn(move || ask(&asking, &address, limit, &sender))
        .map_err(|error| NoAnswer::Silent(format!("cannot start a thread: {error}")))?;
    let now = Instant::now();
    let what = url.rsplit('/').next().unwrap_or(url).to_owned();
    let mut progress = Progress { tell, what, begun: now, told: now, bytes: 0, total: None };
    match wait(&pieces, bounds.answer, bounds.tell, &mut progress) {
        Ok(Piece::Begun(total)) => {
            progress.total = total;
            Ok(Body { pieces, piece: io::Cursor::default(), bounds, progress })
        }
        Ok(Piece::NoAnswer(NoAnswer::Silent(reason))) => {
            Err(NoAnswer::Silent(format!("{reason}{}", hint(proxy.as_deref()))))
        }
        Ok(Piece::NoAnswer(refused)) => Err(refused),
        Ok(Piece::Broken(error)) => Err(NoAnswer::Silent(error.to_string())),
        Ok(Piece::Bytes(_) | Piece::End) | Err(RecvTimeoutError::Disconnected) => {
            Err(NoAnswer::Silent("the download ended without an answer".into()))
        }
        Err(RecvTimeoutError::Timeout) => {
            let seconds = bounds.answer.as_secs_f32();
            let hint = hint(proxy.as_deref());
            Err(NoAnswer::Silent(format!("no answer within {seconds} s{hint}")))
        }
    }
}

/// The proxy that requests to `url` go through, without the name and password that its address may hold.
fn proxy(agent: &ureq::Agent, url: &str) -> Option<String> {
    let proxy = agent.config().proxy()?;
    let direct = url.parse().is_ok_and(|uri| proxy.is_no_proxy(&uri));
    (!direct).then(|| format!("{}:{}", proxy.host(), proxy.port()))
}

fn hint(proxy: Option<&str>) -> String {
    proxy.map_or(String::new(), |proxy| {
        format!(
            " by the proxy {proxy}, which ALL_PROXY, HTTPS_PROXY or HTTP_PROXY names: correct or \
             unset it"
        )
    })
}

/// The work of the thread. It ends early when the receiver is gone.
fn ask(agent: &ureq::Agent, url: &str, limit: u64, sender: &SyncSender<Piece>) {
    let begun = Instant::now();
    let response = match agent.get(url).call() {
        Ok(response) => response,
        Err(error) => {
            let reason = match &error {
                ureq::Error::Timeout(_) => {
                    format!("no answer within {:.0} s", begun.elapsed().as_secs_f32())
                }
                _ => error.to_string(),
            };
            let refused = matches!(error, ureq::Error::StatusCode(_));
            let why = if refused { NoAnswer::Refused(reason) } else { NoAnswer::Silent(reason) };
            let _given_up = sender.send(Piece::NoAnswer(why));
            return;
        }
    };
    let total = response.body().content_length();
    let mut body = response.into_body().into_with_config().limit(limit).reader();
    let mut next = Piece::Begun(total);
    loop {
        let is_last = matches!(next, Piece::End | Piece::Broken(_));
        if sender.send(next).is_err() || is_last {
            return;
        }
        let mut bytes = vec![0; PIECE_BYTES];
        next = match body.read(&mut bytes) {
            Ok(0) => Piece::End,
            Ok(read) => {
                bytes.truncate(read);
                Piece::Bytes(bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Piece::Bytes(Vec::new()),
            Err(error) => Piece::Broken(error),
        };
    }
}

/// The next piece, within `bound`. Progress lines are sent while it waits.
fn wait(
    pieces: &Receiver<Piece>,
    bound: Duration,
    interval: Duration,
    progress: &mut Progress<'_>,
) -> Result<Piece, RecvTimeoutError> {
    let deadline = Instant::now() + bound;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match pieces.recv_timeout(left.min(interval)) {
            Err(RecvTimeoutError::Timeout) if !left.is_zero() => progress.tell(interval),
            received => return received,
        }
    }
}

impl Progress<'_> {
    /// Sends a line about the progress, unless the last one is more recent than `interval`.
    fn tell(&mut self, interval: Duration) {
        if self.told.elapsed() < interval {
            return;
        }
        self.told = Instant::now();
        let seconds = self.begun.elapsed().as_secs_f64();
        (self.tell)(&match self.bytes {
            0 => format!("  {}: no answer yet, after {seconds:.0} s", self.what),
            bytes => format!("  {}: {}", self.what, amount(bytes, self.total, seconds)),
        });
    }
}

/// The bytes received, the total if it is known, and the rate, as text for a person.
fn amount(bytes: u64, total: Option<u64>, seconds: f64) -> String {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let of = total.map_or(String::new(), |total| format!(" of {:.1}", megabytes(total)));
    format!("{:.1}{of} MB, {:.2} MB/s", megabytes(bytes), megabytes(bytes) / seconds.max(1e-3))
}

impl Read for Body<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.piece.read(out)? {
                0 if !out.is_empty() => {}
                read => return Ok(read),
            }
            let silence = self.bounds.silence;
            match wait(&self.pieces, silence, self.bounds.tell, &mut self.progress) {
                Ok(Piece::Bytes(bytes)) => {
                    self.progress.bytes += bytes.len() as u64;
                    self.progress.tell(self.bounds.tell);
                    self.piece = io::Cursor::new(bytes);
                }
                Ok(Piece::End) => return Ok(0),
                Ok(Piece::Broken(error)) => return Err(error),
                Ok(Piece::Begun(_) | Piece::NoAnswer(_)) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Err(RecvTimeoutError::Timeout) => {
                    let reason = format!("nothing came for {} s", silence.as_secs_f32());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
                }
            }
        }
    }
}
