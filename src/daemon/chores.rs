//! What a running daemon does when an operator asks: read its files anew, say how it stands.
//!
//! Owns: a thread of its own, because files can be slow and pipes can wait for ever; neither the
//! loop nor the thread that hears signals may.
//! Never: touches a connection, or gives up what works: a file that is broken leaves what was read
//! from it before.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::handle::Handle;
use crate::base::Secret;
use crate::ops::certificate::{self, Certificate};
use crate::ops::config::{ConfigError, ConfigFiles};
use crate::ops::log::{self, LogSwitch};
use crate::ops::process::ProcessFigures;
use crate::ops::secret;
use crate::ops::systemd::Notifier;

/// Something to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Chore {
    /// Read the secrets and open the log file anew.
    Reload,
    /// Log one line that says how things stand.
    Status,
}

/// Gives the thread things to do.
#[derive(Debug)]
pub(super) struct Chores {
    reload: Sender<()>,
    status: Sender<()>,
}

impl Chores {
    /// Starts the thread. It ends when the chores are dropped.
    pub(super) fn start(
        handle: Handle,
        files: ConfigFiles,
        log: LogSwitch,
        manager: Option<Notifier>,
        expiry: Arc<AtomicU64>,
    ) -> io::Result<Self> {
        // What is asked for while it waits already is done with it.
        let (reload, reloads) = bounded(1);
        let (status, statuses) = bounded(1);
        let alarm = Alarm(handle.clone());
        let worker = Worker {
            handle,
            files,
            log,
            manager,
            expiry,
            started_at: Instant::now(),
            _alarm: alarm,
        };
        thread::Builder::new()
            .name("chores".into())
            .spawn(move || worker.run(&reloads, &statuses))?;
        Ok(Self { reload, status })
    }

    /// Asks for something. Never waits.
    pub(super) fn ask(&self, chore: Chore) {
        let queue = match chore {
            Chore::Reload => &self.reload,
            Chore::Status => &self.status,
        };
        let _ = queue.try_send(());
    }
}

struct Worker {
    handle: Handle,
    files: ConfigFiles,
    log: LogSwitch,
    /// The service manager, which wants to know of a reload.
    manager: Option<Notifier>,
    /// When the certificate expires, for the metrics.
    expiry: Arc<AtomicU64>,
    started_at: Instant,
    _alarm: Alarm,
}

/// Ends the server when its thread unwinds: a daemon that does not hear its operators any more, or does
/// not do what they ask, had better be started anew.
pub(super) struct Alarm(pub(super) Handle);

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail();
        }
    }
}

impl Worker {
    fn run(self, reloads: &Receiver<()>, statuses: &Receiver<()>) {
        loop {
            crossbeam_channel::select! {
                recv(reloads) -> asked => match asked {
                    Ok(()) => match &self.manager {
                        Some(manager) => manager.reload(|| self.reload()),
                        None => self.reload(),
                    },
                    Err(_) => return,
                },
                recv(statuses) -> asked => match asked {
                    Ok(()) => self.tell_status(),
                    Err(_) => return,
                },
            }
        }
    }

    /// Reads every file anew, each by itself; a certificate together with its key.
    fn reload(&self) {
        self.reopen_log();
        let token_secret = reread(
            self.files.token_secret.as_deref(),
            secret::read_token_secret,
        );
        let api_key = reread(self.files.api_key.as_deref(), secret::read_api_key);
        self.handle.set_secrets(token_secret, api_key);
        if let Some(certificate) = self.reread_certificate() {
            tell_expiry(&certificate);
            self.expiry
                .store(certificate.expires_unix_s, Ordering::Relaxed);
            self.handle.set_tls(certificate.config);
        }
        ::log::info!("reloaded");
    }

    fn reopen_log(&self) {
        let Some(path) = &self.files.log else {
            return;
        };
        match log::open_file(path) {
            Ok(file) => {
                if !self.log.switch(file) {
                    ::log::error!("the log file was not reopened: too many lines wait for the old");
                }
            }
            Err(error) => ::log::error!("{error}; the log goes on in the old one"),
        }
    }

    /// Reads the certificate anew, for new connections; `None` if there is none, or no good one.
    fn reread_certificate(&self) -> Option<Certificate> {
        let (cert, key) = self.files.tls.as_ref()?;
        let mut warnings = Vec::new();
        let unix_ms = crate::clock::read().unix_ms;
        match certificate::read(cert, key, unix_ms, &mut warnings) {
            Ok(certificate) => {
                for warning in warnings {
                    ::log::warn!("{warning}");
                }
                Some(certificate)
            }
            Err(error) => {
                ::log::error!("{error}; the old one stays");
                None
            }
        }
    }

    fn tell_status(&self) {
        let Ok(now) = self.handle.counters() else {
            return;
        };
        let state = if now.is_draining {
            "draining"
        } else {
            "serving"
        };
        let closed: u64 = now.closes.iter().sum();
        ::log::info!(
            "status: {state} connections={} websockets={} users={} members={} rooms={} \
             accepted={} closed={closed} dropped={} received={}B/{} sent={}B/{} skipped={} \
             log_dropped={} rss={}B uptime={}s",
            now.connections,
            now.websockets,
            now.users,
            now.members,
            now.rooms,
            now.accepted,
            now.dropped,
            now.received_bytes,
            now.received_messages,
            now.sent_bytes,
            now.deliveries,
            now.skipped,
            log::dropped_lines(),
            ProcessFigures::read().rss_bytes,
            self.started_at.elapsed().as_secs(),
        );
    }
}

/// Logs until when the certificate is good.
pub(super) fn tell_expiry(certificate: &Certificate) {
    ::log::info!("the certificate of --tls-cert {certificate}");
}

/// Reads a secret anew; `None` if there is no file or nothing good in it.
fn reread(
    path: Option<&Path>,
    read: fn(&Path, &mut Vec<String>) -> Result<Secret, ConfigError>,
) -> Option<Secret> {
    let mut warnings = Vec::new();
    let secret = read(path?, &mut warnings);
    for warning in warnings {
        ::log::warn!("{warning}");
    }
    secret
        .inspect_err(|error| ::log::error!("{error}; the old one stays"))
        .ok()
}
