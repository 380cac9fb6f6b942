package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// stopGrace is for one component after SIGTERM; the API server takes about a second.
const stopGrace = 10 * time.Second

// quotedLines of a component's log are shown when it ended by itself.
const quotedLines = 15

// A child is one component as a process of this program.
type child struct {
	name    string
	command *exec.Cmd
	log     string
	// logStart is where this run's lines begin.
	logStart int64
	// ended is closed once the process was waited for.
	ended chan struct{}
}

// A family is the children of one cluster, in the order of their start.
type family struct {
	children []*child
	// alive ends, with the reason as its cause, when the first child ends.
	alive context.Context
	fail  context.CancelCauseFunc
}

// newFamily makes one without children yet; its alive ends with ctx, too.
func newFamily(ctx context.Context) *family {
	alive, fail := context.WithCancelCause(ctx)
	return &family{alive: alive, fail: fail}
}

// start starts a component. The kernel kills it when the *thread* that called ends, so only [up]'s goroutine may call,
// which is locked to a thread that ends with the process.
func (f *family) start(p plan, component string) error {
	log, err := os.OpenFile(p.log(component), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	start, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	command := exec.Command(program, p.arguments(component)...)
	command.Args[0] = component
	command.Dir = p.directory
	command.Env = childEnvironment(os.Environ())
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		// A terminal's Ctrl-C is for this process, which ends them in order.
		Setpgid: true,
	}
	if err := command.Start(); err != nil {
		return fmt.Errorf("%s does not start: %w", component, err)
	}
	started := &child{component, command, p.log(component), start, make(chan struct{})}
	f.children = append(f.children, started)
	go func() {
		_ = command.Wait() // how it ended is in ProcessState
		close(started.ended)
		f.fail(started.failure())
	}()
	return nil
}

// stop ends the children, the last one first, and waits for each: for `grace` after SIGTERM, then after SIGKILL.
func (f *family) stop(grace time.Duration) {
	for index := len(f.children) - 1; index >= 0; index-- {
		each := f.children[index]
		_ = each.command.Process.Signal(syscall.SIGTERM) // fails only when it has ended
		select {
		case <-each.ended:
		case <-time.After(grace):
			_ = each.command.Process.Kill()
			<-each.ended
		}
	}
}

// processes are the children's ids by component.
func (f *family) processes() map[string]int {
	ids := map[string]int{}
	for _, each := range f.children {
		ids[each.name] = each.command.Process.Pid
	}
	return ids
}

// failure tells how a child ended; it is [errPortTaken] if that was the reason.
func (c *child) failure() error {
	text := c.output()
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) > quotedLines {
		lines = lines[len(lines)-quotedLines:]
	}
	err := fmt.Errorf("%s ended (%s); the end of %s:\n%s",
		c.name, c.command.ProcessState, c.log, strings.Join(lines, "\n"))
	if bytes.Contains(text, []byte("address already in use")) {
		return fmt.Errorf("%w: %w", errPortTaken, err)
	}
	return err
}

// output is what this run of the component wrote; empty if it cannot be read.
func (c *child) output() []byte {
	log, err := os.Open(c.log)
	if err != nil {
		return nil
	}
	defer log.Close()
	text, _ := io.ReadAll(io.NewSectionReader(log, c.logStart, 1<<62))
	return text
}

// childEnvironment leaves out what would change a component behind the plan's back: etcd takes every flag from there.
func childEnvironment(environment []string) []string {
	kept := make([]string, 0, len(environment))
	for _, each := range environment {
		if !strings.HasPrefix(each, "ETCD_") && !strings.HasPrefix(each, "KUBE") {
			kept = append(kept, each)
		}
	}
	return kept
}
