"""``python -m lpsphere``: the command line, such as under torchrun."""

from lpsphere.cli import main

if __name__ == "__main__":
    main()
