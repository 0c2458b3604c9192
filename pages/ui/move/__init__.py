"""Parts of the page Move. Begin with `account_page`."""
