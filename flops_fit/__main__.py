"""`python -m flops_fit` is the command line."""

from flops_fit.cli.main import main

if __name__ == "__main__":
    main()
