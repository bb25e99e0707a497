"""Make a peer's environment: `python -m benchmarks.peers.setup NAME...`; where: `$WSI_SEG_PEERS`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv

from benchmarks.peers import HOME, PEERS, interpreter


def main() -> None:
    """Make what was asked for; an environment that is there is completed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=PEERS, metavar="NAME", help=", ".join(PEERS))
    for name in parser.parse_args().names:
        venv.create(HOME / name, with_pip=True)
        pip = [str(interpreter(name)), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, *PEERS[name].requirements], check=True)
        print(interpreter(name))
        if PEERS[name].debian:
            print(f"on Debian it also needs: apt-get install {' '.join(PEERS[name].debian)}", file=sys.stderr)


if __name__ == "__main__":
    main()
