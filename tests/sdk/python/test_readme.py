"""The example of README.md, as a reader runs it: copied, with the key of the server, and again the day after."""

import re
import subprocess
import sys
from pathlib import Path

from sdk import BASE_URL, KEY, needs

README = (Path(__file__).parent.parent.parent.parent / "README.md").read_text()


@needs("session usage events")
def test_the_example_of_the_readme_follows_its_session_to_the_end_and_runs_twice() -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    program = program.replace("sk-rota-…", KEY).replace("http://127.0.0.1:7420", BASE_URL)
    for _ in range(2):
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stderr
        printed = ran.stdout.split()
        assert "session.status_idle" in printed and "agent.tool_result" in printed, printed
        assert printed[-1] == "/", f"the report of the disk ends with where it is mounted: {printed}"
