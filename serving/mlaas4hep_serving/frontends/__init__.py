"""Who may ask, and how: HTTP, REST, pages, gRPC, tokens."""
