"""``python -m xdiffda``: the command line, where its script is not on the path."""

from xdiffda._huge_pages import request_huge_pages
from xdiffda.cli import main

if __name__ == "__main__":
    request_huge_pages()
    main()
