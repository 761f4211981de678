"""Small files: runs a module as `python -m` would, where no file may become bigger than so many bytes."""

import resource
import runpy
import sys

if __name__ == "__main__":
    del sys.argv[0]
    most_bytes = int(sys.argv.pop(0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
