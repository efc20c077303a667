"""Which of two answers is better? Every judge behind one door, and what shows whether a judge is one."""
