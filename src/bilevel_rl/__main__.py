"""`python -m bilevel_rl` is `bilevel-rl`."""

from bilevel_rl.cli import main

if __name__ == "__main__":
    main()
