"""Web pages of one file each: everything inside, nothing loaded from elsewhere. They compute nothing."""
