//! What is limited for the whole process: descriptors and memory maps by the kernel, guests' memory by the agent.
//!
//! From 70 % on new sandboxes are refused, so that those that run never meet the limit; the agent then opens
//! another engine. Reading the truth costs milliseconds with thousands of sandboxes, so between readings the
//! use is estimated.

use crate::memory::Pool;
use crate::protocol::Budget;
use crate::sync::lock;
use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::sync::{Arc, Mutex};

/// Measured: what an idle core module of one memory adds to /proc/self/maps, rounded up.
const MAPS_PER_SANDBOX: u64 = 8;

/// Estimated starts between two readings.
const READ_EVERY: u64 = 64;

/// More connections than one engine has memory for.
const MOST_CONNECTIONS: usize = 100_000;

/// All budgets.
pub struct Budgets {
    /// Of guests' linear memory.
    pub memory: Arc<Pool>,
    descriptor_limit: u64,
    map_limit: u64,
    known: Mutex<Known>,
}

/// The last reading and what was added since.
#[derive(Default)]
struct Known {
    descriptors: u64,
    maps: u64,
    starts_since: u64,
}

/// A reading of what the kernel limits.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Open file descriptors.
    pub descriptors: Budget,
    /// Memory maps.
    pub maps: Budget,
}

impl Budgets {
    /// Raises the descriptor limit as far as it goes, and reads what the kernel limits.
    pub fn new(memory: Option<u64>) -> io::Result<Self> {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let now = getrlimit(Resource::Nofile);
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: now.maximum,
                maximum: now.maximum,
            },
        )?;
        let budgets = Self {
            memory: Pool::new(memory),
            descriptor_limit: now.maximum.unwrap_or(u64::MAX),
            map_limit: map_limit()?,
            known: Mutex::default(),
        };
        budgets.read()?;
        Ok(budgets)
    }

    /// How many of all descriptors the connections of http guests may take: a quarter, so that beside as many
    /// sandboxes as are admitted there is room for files.
    pub fn connections(&self) -> usize {
        usize::try_from(self.descriptor_limit / 4)
            .unwrap_or(usize::MAX)
            .min(MOST_CONNECTIONS)
    }

    /// How many of all descriptors guests may take by connecting and listening: what the connections above leave.
    pub fn sockets(&self) -> usize {
        usize::try_from(self.descriptor_limit / 25)
            .unwrap_or(usize::MAX)
            .clamp(1, MOST_CONNECTIONS)
    }

    /// Counts what is in use. May take milliseconds.
    pub fn read(&self) -> io::Result<Reading> {
        let descriptors = fs::read_dir("/proc/self/fd")?.count() as u64;
        let maps = count_maps()?;
        *lock(&self.known) = Known {
            descriptors,
            maps,
            starts_since: 0,
        };
        Ok(Reading {
            descriptors: Budget {
                used: descriptors,
                limit: self.descriptor_limit,
            },
            maps: Budget {
                used: maps,
                limit: self.map_limit,
            },
        })
    }

    /// Accounts for a sandbox that is about to start with so many descriptors; `Err` says which budget is too full.
    pub fn admit(&self, descriptors: usize) -> Result<(), String> {
        if self.is_stale()
            && let Err(error) = self.read()
        {
            return Err(format!("cannot read what the engine uses: {error}"));
        }
        let mut known = lock(&self.known);
        for (used, limit, what) in [
            (
                known.descriptors + descriptors as u64,
                self.descriptor_limit,
                "file descriptors",
            ),
            (known.maps + MAPS_PER_SANDBOX, self.map_limit, "memory maps"),
        ] {
            if is_over(used, limit) {
                return Err(format!(
                    "the engine uses {used} of {limit} {what}; start this sandbox in another engine"
                ));
            }
        }
        known.descriptors += descriptors as u64;
        known.maps += MAPS_PER_SANDBOX;
        known.starts_since += 1;
        Ok(())
    }

    /// Far below the limit an old reading is good enough: starts can only be overestimated by their ends.
    fn is_stale(&self) -> bool {
        let known = lock(&self.known);
        let near = 2 * known.maps > self.map_limit
            || is_over(known.maps + MAPS_PER_SANDBOX, self.map_limit);
        let descriptors_near = 2 * known.descriptors > self.descriptor_limit;
        (near || descriptors_near) && known.starts_since >= READ_EVERY
            || known.starts_since >= 32 * READ_EVERY
    }
}

/// 70 %, without overflow for an unlimited budget.
fn is_over(used: u64, limit: u64) -> bool {
    used > limit / 10 * 7
}

fn map_limit() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/sys/vm/max_map_count")?;
    text.trim()
        .parse()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn count_maps() -> io::Result<u64> {
    let mut maps = BufReader::new(fs::File::open("/proc/self/maps")?);
    let mut lines = 0;
    loop {
        let chunk = maps.fill_buf()?;
        if chunk.is_empty() {
            return Ok(lines);
        }
        lines += chunk.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let length = chunk.len();
        maps.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seventy_percent_is_the_end() {
        assert!(!is_over(700, 1000) && is_over(701, 1000) && !is_over(u64::MAX / 2, u64::MAX));
    }

    #[test]
    fn a_full_budget_refuses_and_says_which() {
        let budgets = Budgets {
            memory: Pool::new(None),
            descriptor_limit: u64::MAX,
            map_limit: 100,
            known: Mutex::new(Known {
                descriptors: 3,
                maps: 60,
                starts_since: 0,
            }),
        };
        assert_eq!(budgets.admit(1), Ok(()));
        assert!(budgets.admit(1).expect_err("full").contains("memory maps"));
    }
}
