"""What an execution environment's process runs: the Lambda runtime client, for as long as the emulator lives.

Run with -S, so that a function sees its package, its layers and what the runtime ships, and nothing else. Standard
input is a pipe that the emulator holds open; when it ends the emulator is gone, and so is this process.
"""

import os
import sys
import threading


def _leave_with_the_emulator() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_leave_with_the_emulator, daemon=True).start()
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib would slow each cold start
    sys.path[:] = [path for path in sys.path if path != here]
    from awslambdaric.__main__ import main

    main(sys.argv)
