// Joined to package kfake by hatch_build.py: what its patches for rules of Apache Kafka call.

package kfake

import (
	"hash/crc32"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	logAppendTimeAttribute = 0x0008
	checksummedFrom        = 21 // the CRC covers everything from the attributes on
)

// isLogAppendTime tells whether the topic is configured to take the broker's clock. As released, kfake goes by
// an attribute that the client may set, ignores the topic's setting, and leaves a wrong checksum behind.
func (d *data) isLogAppendTime(topic string) bool {
	if v, ok := d.tcfgs[topic]["message.timestamp.type"]; ok && v != nil {
		return *v == "LogAppendTime"
	}
	if v, ok := d.c.bcfgs["log.message.timestamp.type"]; ok && v != nil {
		return *v == "LogAppendTime"
	}
	return false
}

// stampAppendTime gives every record of the batch the time `now`, in epoch milliseconds, and seals the batch again.
func stampAppendTime(b *kmsg.RecordBatch, now int64) {
	b.Attributes |= logAppendTimeAttribute
	b.FirstTimestamp = now
	b.MaxTimestamp = now
	b.CRC = int32(crc32.Checksum(b.AppendTo(nil)[checksummedFrom:], crc32c))
}

// hasOpenTransaction tells whether records of an undecided transaction lie in the partition. Its cleaner has to
// wait for them: a record that supersedes another may yet be aborted, and then both would be gone.
func (pd *partData) hasOpenTransaction() bool {
	return pd.lastStableOffset < pd.highWatermark
}
