"""Every way that ZooKeeper and our own processes can fail; each answer is held against what was true."""
