"""`python -m preimage` is the command `preimage`."""

from preimage.cli import main

if __name__ == "__main__":
    main()
