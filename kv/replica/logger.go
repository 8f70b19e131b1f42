package replica

import (
	"context"
	"fmt"
	"log/slog"
)

// raftLogger hands raft's log lines to slog. Raft's info lines tell of
// elections and configuration changes in detail: debug, for an operator.
type raftLogger struct{ log *slog.Logger }

func (l *raftLogger) print(level slog.Level, v ...any) {
	if ctx := context.Background(); l.log.Enabled(ctx, level) {
		l.log.Log(ctx, level, "raft", "text", fmt.Sprint(v...))
	}
}

func (l *raftLogger) printf(level slog.Level, format string, v ...any) {
	if ctx := context.Background(); l.log.Enabled(ctx, level) {
		l.log.Log(ctx, level, "raft", "text", fmt.Sprintf(format, v...))
	}
}

func (l *raftLogger) Debug(v ...any)                   { l.print(slog.LevelDebug, v...) }
func (l *raftLogger) Debugf(format string, v ...any)   { l.printf(slog.LevelDebug, format, v...) }
func (l *raftLogger) Info(v ...any)                    { l.print(slog.LevelDebug, v...) }
func (l *raftLogger) Infof(format string, v ...any)    { l.printf(slog.LevelDebug, format, v...) }
func (l *raftLogger) Warning(v ...any)                 { l.print(slog.LevelWarn, v...) }
func (l *raftLogger) Warningf(format string, v ...any) { l.printf(slog.LevelWarn, format, v...) }
func (l *raftLogger) Error(v ...any)                   { l.print(slog.LevelError, v...) }
func (l *raftLogger) Errorf(format string, v ...any)   { l.printf(slog.LevelError, format, v...) }

// A broken invariant must not be survived: the state may be wrong.
func (l *raftLogger) Fatal(v ...any)                 { panic(fmt.Sprint(v...)) }
func (l *raftLogger) Fatalf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
func (l *raftLogger) Panic(v ...any)                 { panic(fmt.Sprint(v...)) }
func (l *raftLogger) Panicf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
