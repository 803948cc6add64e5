"""Write the golden files that are missing, and touch none that is there; see README.md beside this file."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE / "format1"
JOURNAL = HERE / "journal1"


def main() -> None:
    """Write them."""
    import anyio
    import events
    from states import FORMATS, SNAPSHOTS, STATE_TYPES

    from swoosh_async.codec import SnapshotCodec

    if not JOURNAL.exists():
        anyio.run(events.write, JOURNAL)
        (JOURNAL / ".journal.lock").unlink()
    for name, formats in FORMATS.items():
        for wire in formats:
            for suffix, compression in (("", None), (".zst", "zstd")):
                codec = SnapshotCodec(STATE_TYPES[name], format=wire, compression=compression)  # type: ignore[arg-type]
                path = FOLDER / f"{name}.{wire}{suffix}"
                if not path.exists():
                    path.write_bytes(b"".join(codec.encode(SNAPSHOTS[name])))


if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parent.parent)]
    main()
