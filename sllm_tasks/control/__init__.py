"""Control: commits what the others report, and puts right what faults left behind."""
