"""Load a tiny checkpoint of every kind of model and compare its logits, as bits, with those of from_pretrained."""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

from scripts.architectures import UnbuildableError, differences, model_types, write_tiny


def main() -> int:
    """Try those that were named, or all; 1 if any differs."""
    parser = argparse.ArgumentParser(prog="scripts/try_architectures", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a model_type of transformers (default: all)")
    warnings.simplefilter("ignore")
    equal, different, left_out = list[str](), list[str](), list[str]()
    for name in parser.parse_args().names or model_types():
        with tempfile.TemporaryDirectory() as folder:
            try:
                write_tiny(Path(folder) / "plain", name)
                found = differences(Path(folder) / "plain", Path(folder) / "converted")
            except UnbuildableError as error:
                left_out.append(name)
                print(f"-     {name}: {str(error)[:100]}", flush=True)
                continue
            except Exception as error:  # noqa: BLE001 - one that does not load is a finding; the next one is tried
                found = [f"{type(error).__name__}: {error}"]
        (different if found else equal).append(name)
        print(f"{'WRONG' if found else 'ok   '} {name} {'; '.join(found)}", flush=True)
    print(f"{len(equal)} bit-equal, {len(different)} not, {len(left_out)} without a model of this size")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
