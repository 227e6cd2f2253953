"""One module a case. Each promises its figures by name and measures them with `measure(bench)`."""
