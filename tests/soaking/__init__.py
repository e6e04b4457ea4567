"""What tests/soak consists of: the daemon, the clients and back ends that load it, the books, the
verdict."""
