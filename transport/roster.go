package transport

import "slices"

// At most so many callers that are not members are answered.
const maxCallersAnswered = 16

// roster is whom a node sends to: the members it was told, and callers that the
// membership does not have. A node that joins, or is sent the log from its
// beginning, knows its leader only from Hello.
type roster struct {
	told    []Peer
	callers []Peer
}

// set replaces the members.
func (r *roster) set(members []Peer) {
	r.told = slices.Clone(members)
	r.callers = slices.DeleteFunc(r.callers, func(c Peer) bool { return has(members, c.ID) })
}

// learn adds a caller that said Hello; false when there was nothing to learn. When
// there is no room, the one that called longest ago goes, but never the leader: a
// node that joins depends on it, and strangers must not keep it out.
func (r *roster) learn(caller Peer, leader uint64) bool {
	if caller.Address == "" || has(r.told, caller.ID) || slices.Contains(r.callers, caller) {
		return false
	}
	r.callers = slices.DeleteFunc(r.callers, func(c Peer) bool { return c.ID == caller.ID })
	r.callers = append(r.callers, caller)
	if len(r.callers) > maxCallersAnswered {
		i := slices.IndexFunc(r.callers, func(c Peer) bool { return c.ID != leader })
		r.callers = slices.Delete(r.callers, i, i+1)
	}
	return true
}

func (r *roster) all() []Peer { return slices.Concat(r.told, r.callers) }

func has(peers []Peer, id uint64) bool {
	return slices.ContainsFunc(peers, func(p Peer) bool { return p.ID == id })
}
