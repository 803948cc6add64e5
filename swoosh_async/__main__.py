"""`python -m swoosh_async` is the command `swoosh-async`."""

from .cli import main

if __name__ == "__main__":
    main()
