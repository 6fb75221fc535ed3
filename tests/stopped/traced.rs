//! A child process that runs one machine instruction at a time.

use std::io::Error;
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

/// Stopped, unless it has exited.
pub struct Child {
    pid: libc::pid_t,
    exited: bool,
}

#[derive(Debug, PartialEq)]
pub enum Status {
    Stopped,
    Exited,
}

impl Child {
    /// Forks a child that stops before it runs `run`, and then exits without dropping anything.
    pub fn fork(run: impl FnOnce()) -> Self {
        let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
        assert_eq!(threads, 1, "a fork beside other threads would find their locks taken for ever");
        // SAFETY: there is no other thread, so that the child has all that the parent has.
        let pid = unsafe { libc::fork() };
        assert_ne!(pid, -1, "fork: {}", Error::last_os_error());
        if pid == 0 {
            let run = || {
                let (request, null) = (libc::PTRACE_TRACEME, null_mut::<u8>());
                // SAFETY: it has no arguments, and touches no memory.
                let is_traced = unsafe { libc::ptrace(request, 0, null, null) } == 0;
                assert!(is_traced, "NOT RUN: ptrace is refused: {}", Error::last_os_error());
                // SAFETY: it stops this process.
                unsafe { libc::raise(libc::SIGSTOP) };
                run();
            };
            let status = i32::from(catch_unwind(AssertUnwindSafe(run)).is_err());
            // SAFETY: nothing of this process runs after it.
            unsafe { libc::_exit(status) }
        }
        let mut child = Self { pid, exited: false };
        assert_eq!(child.wait(), Status::Stopped, "the child has exited at once: see above");
        child
    }

    fn request(&self, request: libc::c_uint, addr: usize, data: u64) -> libc::c_long {
        // SAFETY: of the requests that come here none reads or writes this process: they continue the child, or hand over one word
        // of it as a number. glibc returns that, too.
        let result = unsafe { libc::ptrace(request, self.pid, addr, data) };
        assert!(
            result != -1 || request == libc::PTRACE_PEEKUSER,
            "ptrace {request}: {}",
            Error::last_os_error()
        );
        result
    }

    fn wait(&mut self) -> Status {
        let mut status = 0;
        // SAFETY: it writes to `status` only.
        let pid = unsafe { libc::waitpid(self.pid, &mut status, 0) };
        assert_eq!(pid, self.pid, "waitpid: {}", Error::last_os_error());
        if libc::WIFSTOPPED(status) {
            let signal = libc::WSTOPSIG(status);
            assert!([libc::SIGTRAP, libc::SIGSTOP].contains(&signal), "the child got signal {signal}");
            return Status::Stopped;
        }
        self.exited = true;
        assert_eq!(status, 0, "the child has panicked: see above");
        Status::Exited
    }

    /// Runs one instruction.
    pub fn step(&mut self) -> Status {
        self.request(libc::PTRACE_SINGLESTEP, 0, 0);
        self.wait()
    }

    /// Where the next instruction is.
    pub fn at(&self) -> u64 {
        let offset = offset_of!(libc::user, regs) + offset_of!(libc::user_regs_struct, rip);
        self.request(libc::PTRACE_PEEKUSER, offset, 0) as u64
    }

    /// Runs until the instruction at `address` is the next one for the `times`-th time. False if it comes to its end instead.
    #[must_use]
    pub fn run_to(&mut self, address: u64, times: usize) -> bool {
        let register = |n: usize| offset_of!(libc::user, u_debugreg) + 8 * n;
        self.request(libc::PTRACE_POKEUSER, register(0), address);
        self.request(libc::PTRACE_POKEUSER, register(7), 1); // of one byte, on execution
        for _ in 0..times {
            self.request(libc::PTRACE_CONT, 0, 0);
            if self.wait() == Status::Exited {
                return false;
            }
        }
        self.request(libc::PTRACE_POKEUSER, register(7), 0);
        true
    }

    /// Lets it run to its end.
    pub fn finish(&mut self) {
        self.request(libc::PTRACE_CONT, 0, 0);
        assert_eq!(self.wait(), Status::Exited);
    }

    /// Ends it where it is.
    pub fn kill(&mut self) {
        // SAFETY: the child is ours, and not waited for yet: its id is still its own.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, null_mut(), 0);
        }
        self.exited = true;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.exited {
            self.kill();
        }
    }
}
