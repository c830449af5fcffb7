"""`python -m convnext`, which is what torchrun starts: `torchrun --nproc-per-node 8 -m convnext train ...`."""

from convnext.cli.main import main

if __name__ == "__main__":
    main()
