//! What the process gives up before it starts threads and reads anything of others: its user, its capabilities, all
//! files but a few (Landlock), most system calls (seccomp). None of it can be taken back.
//!
//! What the kernel does not have is said, in the log and to clients, never passed over.

use crate::protocol::Confinement;
use crate::syscalls::{self, Program};
use crate::traffic::tls;
use anyhow::{Context as _, Result};
use landlock::{
    ABI, Access as _, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The newest Landlock whose rights this file knows.
const NEWEST: ABI = ABI::V6;

/// What the engine itself reads: its own figures and limits, and how many cores there are.
const OWN_FILES: [&str; 4] = [
    "/proc/self",
    "/proc/sys/vm",
    "/sys/fs/cgroup",
    "/dev/urandom",
];

/// What a process of uid 0 keeps; one of another user keeps the first.
const KEPT: CapabilitySet = CapabilitySet::NET_BIND_SERVICE
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER);

/// What the agent allows an engine for as long as it lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Directories, with all that will ever lie below, that it may read.
    pub read: Vec<PathBuf>,
    /// Those that it may also write.
    pub write: Vec<PathBuf>,
    /// Whom it becomes; `None` stays who it is.
    pub user: Option<User>,
}

/// A user of the machine, with its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub user: u32,
    /// The group of what it makes.
    pub group: u32,
    /// Further ones.
    pub groups: Vec<u32>,
}

impl std::str::FromStr for User {
    type Err = String;

    /// `UID:GID` or `UID:GID,GID…`
    fn from_str(text: &str) -> Result<Self, String> {
        // The highest number means "no change" to the kernel.
        let number = |text: &str| text.parse().ok().filter(|it| *it != u32::MAX);
        let parsed = || {
            let (user, groups) = text.split_once(':')?;
            let mut groups = groups.split(',').map(number);
            Some(Self {
                user: number(user)?,
                group: groups.next()??,
                groups: groups.collect::<Option<_>>()?,
            })
        };
        parsed().ok_or_else(|| format!("{text} is not UID:GID"))
    }
}

/// Keeps the inode of /proc/self, to which a rule is bound, from being made anew.
static OWN_FIGURES: OnceLock<File> = OnceLock::new();

/// Confines an engine, which has no threads yet.
pub fn engine(rules: &Rules) -> Result<Confinement> {
    let mut missing = Vec::new();
    // As who it was: the directories above may be closed to the user.
    let files = if rules.read.is_empty() && rules.write.is_empty() {
        missing.push("Landlock: no --read or --write was given".to_owned());
        None
    } else {
        let authorities = tls::places();
        let own = OWN_FILES.iter().map(Path::new);
        let read: Vec<_> = own
            .chain(authorities.iter().map(PathBuf::as_path))
            .filter(|it| it.exists())
            .chain(rules.read.iter().map(PathBuf::as_path))
            .collect();
        Some(rule_files(&read, &rules.write)?)
    };
    become_user(rules.user.as_ref())?;
    let landlock = files.map_or(Ok(0), |files| restrict_files(files, &mut missing))?;
    let seccomp = restrict_calls(Program::Engine, &mut missing);
    Ok(Confinement {
        user: rustix::process::getuid().as_raw(),
        group: rustix::process::getgid().as_raw(),
        landlock,
        seccomp,
        missing,
    })
}

/// Confines a helper that reads what users send: it may write below `output`, and reach nobody.
pub fn helper(output: Option<&Path>) -> Result<()> {
    become_user(None)?;
    // A helper lives for seconds, and whoever reads its answer knows from the engines what the kernel lacks.
    let mut missing = Vec::new();
    let read: Vec<_> = OWN_FILES
        .iter()
        .map(Path::new)
        .filter(|it| it.exists())
        .collect();
    // One that is not there is told when it is written to.
    let write: Vec<_> = output.into_iter().filter(|it| it.exists()).collect();
    restrict_files(rule_files(&read, &write)?, &mut missing)?;
    restrict_calls(Program::Helper, &mut missing);
    Ok(())
}

/// Gives up every capability but those for low ports and, as root, for files of others.
fn become_user(user: Option<&User>) -> Result<()> {
    use rustix::thread::{capabilities, set_capabilities};
    if let Some(it) = user {
        let (user, group) = (Uid::from_raw(it.user), Gid::from_raw(it.group));
        let groups: Vec<_> = it.groups.iter().copied().map(Gid::from_raw).collect();
        rustix::thread::set_keep_capabilities(true)
            .and_then(|()| rustix::thread::set_thread_groups(&groups))
            .and_then(|()| rustix::thread::set_thread_res_gid(group, group, group))
            .and_then(|()| rustix::thread::set_thread_res_uid(user, user, user))
            .with_context(|| format!("cannot become user {user:?} of group {group:?}"))?;
    }
    let is_root = rustix::process::getuid().is_root();
    let kept = if is_root {
        KEPT
    } else {
        CapabilitySet::NET_BIND_SERVICE
    };
    let give_up = || {
        let kept = capabilities(None)?.permitted & kept;
        let sets = CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets)
    };
    give_up().context("cannot give up capabilities")?;
    rustix::thread::set_no_new_privs(true).context("cannot give up new privileges")
}

/// Returns the Landlock ABI that holds now; 0 is none.
fn restrict_files(rules: RulesetCreated, missing: &mut Vec<String>) -> Result<i32> {
    let status = rules
        .restrict_self()
        .context("cannot apply the Landlock rules")?;
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi as i32,
        LandlockStatus::NotEnabled => {
            missing.push("Landlock: the kernel was started without it (lsm=)".to_owned());
            return Ok(0);
        }
        _ => {
            missing.push("Landlock: the kernel has none".to_owned());
            return Ok(0);
        }
    };
    if status.ruleset != RulesetStatus::FullyEnforced {
        missing.push(lacking(abi));
    }
    Ok(abi)
}

/// What Landlock of this version cannot hold.
fn lacking(abi: i32) -> String {
    let what = [
        (2, "moves between directories"),
        (3, "truncation"),
        (5, "ioctl of devices"),
        (6, "signals and abstract sockets"),
    ];
    let what: Vec<_> = what
        .iter()
        .filter(|(since, _)| abi < *since)
        .map(|(_, it)| *it)
        .collect();
    format!("Landlock: version {abi} does not hold {}", what.join(", "))
}

fn rule_files(read: &[&Path], write: &[impl AsRef<Path>]) -> Result<RulesetCreated> {
    if let Ok(own) = File::open("/proc/self") {
        let _ = OWN_FIGURES.set(own);
    }
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for path in read {
        ruleset = allow(ruleset, path, AccessFs::ReadFile | AccessFs::ReadDir)?;
    }
    for path in write {
        // Regular files, directories and links; a guest can make nothing else.
        let rights = AccessFs::from_all(NEWEST)
            & !(AccessFs::Execute
                | AccessFs::MakeChar
                | AccessFs::MakeBlock
                | AccessFs::MakeFifo
                | AccessFs::MakeSock
                | AccessFs::IoctlDev);
        ruleset = allow(ruleset, path.as_ref(), rights)?;
    }
    Ok(ruleset)
}

fn allow(
    ruleset: RulesetCreated,
    path: &Path,
    rights: BitFlags<AccessFs>,
) -> Result<RulesetCreated> {
    let about = || format!("cannot make a Landlock rule for {}", path.display());
    let opened = PathFd::new(path).with_context(about)?;
    let rights = if path.is_dir() {
        rights
    } else {
        rights & AccessFs::from_file(NEWEST)
    };
    ruleset
        .add_rule(PathBeneath::new(opened, rights))
        .with_context(about)
}

/// Whether the kernel filters system calls now.
fn restrict_calls(program: Program, missing: &mut Vec<String>) -> bool {
    match syscalls::confine(program) {
        Ok(()) => true,
        Err(error) => {
            missing.push(format!("seccomp: {error:#}"));
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::ErrorKind;

    #[test]
    fn users_parse() {
        for (text, groups) in [("1:20", vec![]), ("1:20,3,4", vec![3, 4])] {
            let expected = User {
                user: 1,
                group: 20,
                groups,
            };
            assert_eq!(text.parse(), Ok(expected));
        }
        for text in [
            "",
            "1",
            "1:",
            ":1",
            "a:1",
            "1:2:3",
            "-1:1",
            "1:4294967295",
            "1:2,",
            "1:2,x",
        ] {
            assert!(text.parse::<User>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_old_kernel_is_told() {
        assert_eq!(
            lacking(4),
            "Landlock: version 4 does not hold ioctl of devices, signals and abstract sockets"
        );
    }

    /// In a thread of its own, since rules cannot be taken off.
    #[test]
    fn only_the_rules_directories_are_left() {
        let directory = tempfile::tempdir().expect("directory");
        let path = |name: &str| directory.path().join(name);
        for name in ["read", "write", "else"] {
            fs::create_dir(path(name)).expect("directory");
            fs::write(path(name).join("file"), "x").expect("write");
        }
        std::os::unix::fs::symlink(path("else"), path("write").join("link")).expect("link");
        let mut missing = Vec::new();
        let run = || {
            rustix::thread::set_no_new_privs(true).expect("no new privileges");
            let abi = restrict_files(
                rule_files(&[&path("read")], &[path("write")])?,
                &mut missing,
            )?;
            if abi == 0 {
                return Ok(()); // told by the test of the engine
            }
            let kind = |it: std::io::Result<()>| it.map_err(|error| error.kind());
            let read = |name: &str| kind(fs::read(path(name)).map(drop));
            let write = |name: &str| kind(fs::write(path(name), "y"));
            let denied = Err(ErrorKind::PermissionDenied);
            assert_eq!((read("read/file"), write("read/file")), (Ok(()), denied));
            assert_eq!((read("write/file"), write("write/file")), (Ok(()), Ok(())));
            assert_eq!((read("else/file"), write("else/file")), (denied, denied));
            assert_eq!(read("write/link/file"), denied, "a link leads nowhere new");
            let moved = kind(fs::rename(path("write/file"), path("read/moved")));
            assert!(moved.is_err(), "nothing is moved out");
            fs::create_dir(path("write/new")).expect("make");
            fs::rename(path("write/file"), path("write/new/file")).expect("move inside");
            Ok::<_, anyhow::Error>(())
        };
        std::thread::scope(|scope| scope.spawn(run).join().expect("thread")).expect("rules");
    }
}
