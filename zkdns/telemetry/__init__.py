"""Stats, logs and notices for operators and their tools. Decisions belong to other packages."""
