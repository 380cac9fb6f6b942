//! After the end: it is written down and told.

use crate::exit::Ending;
use crate::log::Log;
use crate::parts::Parts;
use crate::protocol::Exit;
use crate::sandbox::{Moment, Sandbox};
use crate::time::Timestamp;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long an exit waits for a disk that does not answer before its event goes out all the same.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// Log, exit file, facts, event: in this order.
pub async fn finish(
    parts: &Parts,
    sandbox: &Arc<Sandbox>,
    path: &Path,
    log: Arc<Log>,
    ending: Ending,
) {
    let finished_at = Timestamp::now();
    if let Some(stdin) = &sandbox.stdin {
        stdin.close();
    }
    let verdict = ending.verdict();
    log.close(&verdict.message);
    log.audience().end(&verdict.clone().into());
    let exit = Arc::new(Exit {
        id: sandbox.id.clone(),
        exit_code: verdict.code,
        reason: verdict.reason,
        fault: verdict.fault,
        message: verdict.message,
        started_at: sandbox.started_at().unwrap_or(finished_at),
        finished_at,
        incarnation: parts.incarnation.to_string(),
    });
    let written = parts
        .disk
        .finish(Arc::clone(&log), path.to_owned(), Arc::clone(&exit));
    if !is_written(sandbox, &log, written).await {
        tracing::error!(sandbox = sandbox.id, path = %path.display(), "exit file failed: the disk does not answer");
    }
    tracing::info!(
        sandbox = sandbox.id,
        pod = sandbox.pod(),
        container = sandbox.container(),
        exit_code = exit.exit_code,
        reason = ?exit.reason,
        "sandbox completed"
    );
    if let Err(illegal) = sandbox.set_exited(exit) {
        tracing::error!(sandbox = sandbox.id, %illegal, "exit failed to be recorded");
    }
    parts.events.publish(sandbox, Moment::Exited);
}

/// Waits for a log and its exit file: as long as a disk may take, and while the log waits for its reader and nobody
/// has asked the sandbox to end.
async fn is_written(sandbox: &Sandbox, log: &Log, written: oneshot::Receiver<()>) -> bool {
    let released = async {
        sandbox.stopped().await;
        log.release();
        std::future::pending::<()>().await;
    };
    let impatient = async {
        loop {
            tokio::time::sleep(DISK_PATIENCE).await;
            if !log.is_held() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = released => false,
        _ = written => true,
        () = impatient => false,
    }
}
