"""Converting: exam sheets, tables, quizzes and benchmarks become passages, and answers become keys and filled sheets."""
