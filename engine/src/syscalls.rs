//! The system calls that remain (seccomp): what engine and guests need, by an allow list.
//!
//! Any other one fails with ENOSYS, as on a kernel that does not have it: libraries fall back where they can, and one
//! unforeseen call does not end a thousand pods. What would be of use to whoever broke out of a guest is not here:
//! execve and fork, ptrace and process_vm_*, mount and pivot_root, unshare and setns, bpf, perf_event_open, keyctl,
//! io_uring, userfaultfd, open_by_handle_at, kexec, modules, setuid, chmod and chown, sockets of other families.
//!
//! The kernel keeps a bitmap of the calls that are allowed whatever their arguments, so that these cost nothing.

use anyhow::{Context as _, Result};
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Serves guests.
    Engine,
    /// Compiles or reads a module: no sockets.
    Helper,
}

/// Files, memory, threads, time, and the process's own state.
const EVERYBODY: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getpriority,
    libc::SYS_getrandom,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mincore,
    libc::SYS_mkdirat,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pselect6,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_setpriority,
    libc::SYS_sigaltstack,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_sysinfo,
    libc::SYS_umask,
    libc::SYS_uname,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// What has another name, or none, on other machines.
#[cfg(target_arch = "x86_64")]
const OLD: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_getdents,
    libc::SYS_getpgrp,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[c_long] = &[];

/// Connections, of the families that [`rules`] allows.
const NETWORK: &[c_long] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_copy_file_range,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendfile,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_splice,
];

/// Leaves the calling thread, and those that it starts, with these calls.
pub fn confine(program: Program) -> Result<()> {
    let filter = filter(program).context("cannot make the filter of system calls")?;
    seccompiler::apply_filter(&filter).context("cannot apply the filter of system calls")
}

fn filter(program: Program) -> Result<BpfProgram> {
    let filter = SeccompFilter::new(
        rules(program)?,
        SeccompAction::Errno(libc::ENOSYS.cast_unsigned()),
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?;
    Ok(filter.try_into()?)
}

/// No rules for a call: it is allowed whatever its arguments.
fn rules(program: Program) -> Result<BTreeMap<c_long, Vec<SeccompRule>>> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = EVERYBODY
        .iter()
        .chain(OLD)
        .map(|&call| (call, Vec::new()))
        .collect();
    let own = std::process::id();
    for signal in [libc::SYS_kill, libc::SYS_tgkill] {
        rules.insert(signal, argument(0, &[u64::from(own)])?);
    }
    rules.insert(libc::SYS_prlimit64, argument(0, &[0, u64::from(own)])?);
    // Threads only; clone3 hides its flags from filters, and the C library does without it.
    let thread = (libc::CLONE_THREAD | libc::CLONE_VM).cast_unsigned().into();
    rules.insert(
        libc::SYS_clone,
        vec![rule(0, Is::MaskedEq(thread), thread)?],
    );
    let name = [
        libc::PR_SET_NAME,
        libc::PR_GET_NAME,
        libc::PR_SET_VMA,
        libc::PR_SET_PDEATHSIG,
    ];
    rules.insert(
        libc::SYS_prctl,
        argument(0, &name.map(|it| u64::from(it.cast_unsigned())))?,
    );
    let requests = [libc::FIONBIO, libc::FIONREAD, libc::FIOCLEX, libc::TCGETS];
    rules.insert(libc::SYS_ioctl, argument(1, &requests)?);
    // Memory is never writable and executable at once.
    let both = (libc::PROT_WRITE | libc::PROT_EXEC).cast_unsigned().into();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let allowed = [0, libc::PROT_WRITE, libc::PROT_EXEC];
        let allowed = allowed.map(|it| rule(2, Is::MaskedEq(both), it.cast_unsigned().into()));
        rules.insert(call, allowed.into_iter().collect::<Result<_>>()?);
    }
    let unix = u64::from(libc::AF_UNIX.cast_unsigned());
    rules.insert(libc::SYS_socketpair, argument(0, &[unix])?);
    if program == Program::Engine {
        rules.extend(NETWORK.iter().map(|&call| (call, Vec::new())));
        let families = [libc::AF_INET, libc::AF_INET6].map(|it| u64::from(it.cast_unsigned()));
        rules.insert(libc::SYS_socket, argument(0, &families)?);
    } else {
        // The pair through which signals are heard, and nothing that could reach a network.
        let pair = [libc::SYS_recvfrom, libc::SYS_sendto];
        rules.extend(pair.map(|call| (call, Vec::new())));
    }
    Ok(rules)
}

/// Allowed while the argument, of 32 bits, is one of these.
fn argument(index: u8, values: &[u64]) -> Result<Vec<SeccompRule>> {
    values
        .iter()
        .map(|&value| rule(index, Is::Eq, value))
        .collect()
}

fn rule(index: u8, is: Is, value: u64) -> Result<SeccompRule> {
    let condition = SeccompCondition::new(index, Length::Dword, is, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Error;

    /// Runs in a thread of its own, since a filter cannot be taken off.
    fn confined<T: Send>(program: Program, act: impl FnOnce() -> T + Send) -> T {
        let run = || {
            rustix::thread::set_no_new_privs(true).expect("no new privileges");
            confine(program).expect("filter");
            act()
        };
        std::thread::scope(|scope| scope.spawn(run).join().expect("thread"))
    }

    fn errno(call: c_long, arguments: [u64; 3]) -> Option<i32> {
        // SAFETY: pointers among the arguments are null, which the kernel refuses.
        let result = unsafe { libc::syscall(call, arguments[0], arguments[1], arguments[2], 0, 0) };
        (result < 0).then(|| Error::last_os_error().raw_os_error().expect("number"))
    }

    #[test]
    fn what_breaks_out_is_not_there() {
        let calls = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_fsopen,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_open_by_handle_at,
            libc::SYS_kexec_load,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_setuid,
            libc::SYS_setresuid,
            libc::SYS_capset,
            libc::SYS_fchmodat,
            libc::SYS_fchownat,
            libc::SYS_mknodat,
            libc::SYS_seccomp,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_getfd,
            libc::SYS_clone3,
            libc::SYS_reboot,
        ];
        for program in [Program::Engine, Program::Helper] {
            let refused = confined(program, || calls.map(|call| errno(call, [0; 3])));
            for (call, refused) in calls.iter().zip(refused) {
                assert_eq!(
                    refused,
                    Some(libc::ENOSYS),
                    "{program:?}: system call {call}"
                );
            }
        }
    }

    #[test]
    fn arguments_count() {
        let parent = std::os::unix::process::parent_id();
        let all = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC).cast_unsigned();
        let (inet, netlink) = (
            libc::AF_INET.cast_unsigned(),
            libc::AF_NETLINK.cast_unsigned(),
        );
        let stream = u64::from(libc::SOCK_STREAM.cast_unsigned());
        let table = [
            (libc::SYS_kill, [u64::from(std::process::id()), 0, 0], None),
            (
                libc::SYS_kill,
                [u64::from(parent), 0, 0],
                Some(libc::ENOSYS),
            ),
            (
                libc::SYS_tgkill,
                [u64::from(parent), u64::from(parent), 0],
                Some(libc::ENOSYS),
            ),
            (libc::SYS_socket, [inet.into(), stream, 0], None),
            (
                libc::SYS_socket,
                [netlink.into(), stream, 0],
                Some(libc::ENOSYS),
            ),
            (libc::SYS_mmap, [0, 4096, all.into()], Some(libc::ENOSYS)),
            (libc::SYS_mprotect, [0, 0, 1], None),
            (libc::SYS_mprotect, [0, 0, all.into()], Some(libc::ENOSYS)),
            // A fork.
            (
                libc::SYS_clone,
                [libc::SIGCHLD.cast_unsigned().into(), 0, 0],
                Some(libc::ENOSYS),
            ),
        ];
        let found = confined(Program::Engine, || {
            table.map(|(call, it, _)| errno(call, it))
        });
        for ((call, arguments, expected), found) in table.iter().zip(found) {
            assert_eq!(found, *expected, "system call {call} {arguments:?}");
        }
        let socket = [inet.into(), stream, 0];
        let refused = confined(Program::Helper, || errno(libc::SYS_socket, socket));
        assert_eq!(refused, Some(libc::ENOSYS));
    }

    #[test]
    fn threads_start_and_inherit_it() {
        let refused = confined(Program::Engine, || {
            let inner = std::thread::spawn(|| errno(libc::SYS_unshare, [0; 3]));
            inner.join().expect("thread")
        });
        assert_eq!(refused, Some(libc::ENOSYS));
    }
}
