//! What the C library's allocator keeps of memory that is not used any more.

/// Pieces of memory from this size on are asked of the system one by one, and go back to it when they are freed. Without a
/// fixed size the allocator raises it to that of the largest piece that was ever freed, and keeps what it gets.
#[cfg(target_env = "gnu")]
const ALONE: i32 = 1 << 20;

/// Lets large pieces of memory go back to the system when they are freed: once, when the process begins.
pub fn keep_little() {
    // SAFETY: sets a parameter of the allocator; it takes its own lock.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, ALONE);
    }
}

/// Gives memory back to the system that is not used any more, if that is more than `spare` bytes. It takes about a
/// millisecond for each MiB that the process uses in small pieces.
#[cfg(target_env = "gnu")]
pub fn give_back(spare: usize) {
    let resident = resident().unwrap_or(0);
    // Looking at what is used takes time too.
    if resident <= spare {
        return;
    }
    // SAFETY: both take the allocator's locks, and change nothing that is used.
    unsafe {
        let told = libc::mallinfo2();
        if resident.saturating_sub(told.uordblks + told.hblkhd) > spare {
            libc::malloc_trim(0);
        }
    }
}

/// Other allocators give back what they do by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn give_back(_spare: usize) {}

/// The memory of this process that is its own and not a file's, in bytes.
#[cfg(target_env = "gnu")]
fn resident() -> Option<usize> {
    let told = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = told.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"))?;
    kib.parse::<usize>().ok().map(|kib| kib * 1024)
}
