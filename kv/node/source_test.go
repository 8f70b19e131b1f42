package node

import (
	"reflect"
	"strings"
	"testing"

	"go.etcd.io/raft/v3"
)

// A knob whose tag names a field of raft.Config moves that field, to its own
// value, and no other; and each field that a knob moves is named.
func TestSourcesAreTrue(t *testing.T) {
	base := DefaultConfig().Effective()
	before := reflect.ValueOf(base.Raft())
	for _, k := range Knobs(&base) {
		if k.Identity || !k.field.CanInt() {
			continue
		}
		old := k.field.Int()
		k.field.SetInt(old + 3)
		after := reflect.ValueOf(base.Raft())
		k.field.SetInt(old)
		var moved []string
		for i := range after.NumField() {
			if !reflect.DeepEqual(before.Field(i).Interface(), after.Field(i).Interface()) {
				moved = append(moved, "raft.Config."+reflect.TypeFor[raft.Config]().Field(i).Name)
			}
		}
		var named []string
		if strings.HasPrefix(k.Source, "raft.Config.") {
			named = []string{k.Source}
		}
		if !reflect.DeepEqual(moved, named) {
			t.Errorf("%s is said to become %q, and moves %q", k.Name, named, moved)
		}
	}
}
