"""Runs a command, and looks through the memory of every other process meanwhile, for texts that are given in two halves."""

import array
import glob
import os
import re
import subprocess
import sys
import time

PAGE = os.sysconf("SC_PAGE_SIZE")
# Of what is read at once. A text may lie across two pieces.
PIECE, OVERLAP = 1024 * PAGE, 256
# What a page is: in memory, or in swap.
THERE = 1 << 63 | 1 << 62

command, halves = sys.argv[1], [half.encode() for half in sys.argv[2:]]
texts = list(zip(halves[::2], halves[1::2]))
looked, found = 0, set()


def used(folder):
    """Where a process has written: ranges of pages that are there."""
    with open(folder + "/smaps") as maps, open(folder + "/pagemap", "rb", 0) as pages:
        start = end = 0
        for line in maps:
            mapping = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if mapping:
                start, end = (int(part, 16) for part in mapping.groups())
            elif line.startswith("Rss:"):
                if end > start and int(line.split()[1]) > 0:
                    pages.seek(start // PAGE * 8)
                    states = array.array("Q", pages.read((end - start) // PAGE * 8))
                    first = None
                    for number, state in enumerate(states):
                        if state & THERE and first is None:
                            first = number
                        elif not state & THERE and first is not None:
                            yield start + first * PAGE, start + number * PAGE
                            first = None
                    if first is not None:
                        yield start + first * PAGE, end
                start = end = 0


def look_into(folder):
    global looked
    with open(folder + "/mem", "rb", 0) as memory:
        for start, end in used(folder):
            while start < end:
                try:
                    memory.seek(start)
                    content = memory.read(min(PIECE, end - start))
                except (OSError, ValueError, OverflowError):
                    break
                looked += 1
                for first, second in texts:
                    at = content.find(first)
                    while at >= 0:
                        if content[at + len(first) :].startswith(second):
                            found.add(open(folder + "/comm").read().strip())
                        at = content.find(first, at + 1)
                start += PIECE - OVERLAP if start + PIECE < end else PIECE


running = subprocess.Popen(["bash", "-c", command])
os.nice(10)
is_over = False
while not is_over:
    is_over = running.poll() is not None
    for folder in glob.glob("/proc/[0-9]*"):
        if folder != f"/proc/{os.getpid()}":
            try:
                look_into(folder)
            except OSError:
                # It may not be looked into, or is gone.
                pass
    time.sleep(0.1)
print("memory:", sorted(found) if looked > 5 else "nothing was looked into")
sys.exit(running.returncode)
