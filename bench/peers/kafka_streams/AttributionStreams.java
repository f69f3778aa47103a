import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.RocksDBConfigSetter;
import org.apache.kafka.streams.state.Stores;

/**
 * Kafka Streams, exactly-once: touches into a keyed store with a changelog, conversions read their journey and forward
 * credits. The journey is either one row a touch (a range scan reads it: {@code --layout rows}) or one value a person
 * that is appended to ({@code --layout append}, which rewrites the journey in store and changelog for each touch).
 */
public class AttributionStreams {
  static final String STORE = "journeys";

  interface Journeys {
    void add(Attribution.Touch t) throws IOException;

    List<Attribution.Touch> of(String person) throws IOException;
  }

  /** Key: person, 0, time, event id. */
  record Rows(KeyValueStore<Bytes, byte[]> store) implements Journeys {
    public void add(Attribution.Touch t) throws IOException {
      byte[] person = t.person.getBytes(StandardCharsets.UTF_8), id = t.id.getBytes(StandardCharsets.UTF_8);
      ByteBuffer key = ByteBuffer.allocate(person.length + 9 + id.length);
      key.put(person).put((byte) 0).putLong(t.ms).put(id);
      store.put(Bytes.wrap(key.array()), encode(null, t));
    }

    public List<Attribution.Touch> of(String person) throws IOException {
      List<Attribution.Touch> touches = new ArrayList<>();
      byte[] low = (person + "\0").getBytes(StandardCharsets.UTF_8), high = low.clone();
      high[high.length - 1] = 1;
      try (KeyValueIterator<Bytes, byte[]> rows = store.range(Bytes.wrap(low), Bytes.wrap(high))) {
        while (rows.hasNext()) {
          KeyValue<Bytes, byte[]> row = rows.next();
          decode(row.value, touches);
        }
      }
      return touches;
    }
  }

  /** Key: person; value: all touches one after the other. */
  record Appended(KeyValueStore<Bytes, byte[]> store) implements Journeys {
    public void add(Attribution.Touch t) throws IOException {
      Bytes key = Bytes.wrap(t.person.getBytes(StandardCharsets.UTF_8));
      store.put(key, encode(store.get(key), t));
    }

    public List<Attribution.Touch> of(String person) throws IOException {
      List<Attribution.Touch> touches = new ArrayList<>();
      byte[] value = store.get(Bytes.wrap(person.getBytes(StandardCharsets.UTF_8)));
      if (value != null) decode(value, touches);
      return touches;
    }
  }

  static byte[] encode(byte[] before, Attribution.Touch t) throws IOException {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream((before == null ? 0 : before.length) + 80);
    if (before != null) bytes.write(before);
    DataOutputStream d = new DataOutputStream(bytes);
    d.writeLong(t.ms);
    for (String s : new String[] {t.id, t.channel, t.source, t.medium, t.campaign, t.content}) d.writeUTF(s);
    return bytes.toByteArray();
  }

  static void decode(byte[] value, List<Attribution.Touch> into) throws IOException {
    DataInputStream d = new DataInputStream(new ByteArrayInputStream(value));
    while (d.available() > 0) {
      Attribution.Touch t = new Attribution.Touch();
      t.ms = d.readLong();
      t.id = d.readUTF();
      t.channel = d.readUTF();
      t.source = d.readUTF();
      t.medium = d.readUTF();
      t.campaign = d.readUTF();
      t.content = d.readUTF();
      into.add(t);
    }
  }

  static Journeys open(ProcessorContext<?, ?> context, String layout) {
    KeyValueStore<Bytes, byte[]> store = context.getStateStore(STORE);
    return layout.equals("rows") ? new Rows(store) : new Appended(store);
  }

  static final class Touches implements Processor<String, byte[], String, byte[]> {
    private final String layout;
    private Journeys journeys;

    Touches(String layout) {
      this.layout = layout;
    }

    public void init(ProcessorContext<String, byte[]> context) {
      journeys = open(context, layout);
    }

    public void process(Record<String, byte[]> record) {
      Options.fetched();
      try {
        journeys.add(Attribution.touch(record.value()));
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    }
  }

  static final class Conversions implements Processor<String, byte[], String, byte[]> {
    private final String layout;
    private final boolean flat;
    private ProcessorContext<String, byte[]> context;
    private Journeys journeys;

    Conversions(String layout, boolean flat) {
      this.layout = layout;
      this.flat = flat;
    }

    public void init(ProcessorContext<String, byte[]> context) {
      this.context = context;
      journeys = open(context, layout);
    }

    public void process(Record<String, byte[]> record) {
      Options.fetched();
      try {
        Attribution.Conversion c = Attribution.conversion(record.value());
        List<Attribution.Touch> path = journeys.of(c.person);
        Attribution.select(path, c.ms);
        if (path.isEmpty()) return;
        Attribution.credit(c, path, flat, (k, v) -> context.forward(new Record<>(k, v, record.timestamp())));
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    }
  }

  /** Bigger write buffers and no compression: the state fits in memory, so disk is not what we save. */
  public static class Roomy implements RocksDBConfigSetter {
    public void setConfig(String store, org.rocksdb.Options options, Map<String, Object> configs) {
      options.setWriteBufferSize(64L << 20);
      options.setMaxWriteBufferNumber(4);
      options.setCompressionType(org.rocksdb.CompressionType.NO_COMPRESSION);
    }

    public void close(String store, org.rocksdb.Options options) {}
  }

  static Properties properties(Options o) {
    Properties p = new Properties();
    p.put("application.id", o.get("id"));
    p.put("bootstrap.servers", o.get("broker"));
    p.put("state.dir", o.get("state-dir"));
    p.put("processing.guarantee", "exactly_once_v2");
    p.put("num.stream.threads", o.get("threads"));
    p.put("commit.interval.ms", o.get("commit-ms"));
    p.put("statestore.cache.max.bytes", String.valueOf((long) o.number("cache-mib") << 20));
    p.put("max.task.idle.ms", "0");
    p.put("auto.offset.reset", "earliest");
    p.put("max.poll.records", "5000");
    p.put("fetch.max.bytes", String.valueOf(16 << 20));
    p.put("max.partition.fetch.bytes", String.valueOf(4 << 20));
    p.put("producer.compression.type", o.get("codec"));
    p.put("producer.linger.ms", "20");
    p.put("producer.batch.size", "262144");
    p.put("producer.buffer.memory", String.valueOf(64 << 20));
    p.put("default.key.serde", Serdes.StringSerde.class.getName());
    p.put("default.value.serde", Serdes.ByteArraySerde.class.getName());
    if (o.get("store").equals("rocksdb")) p.put("rocksdb.config.setter", Roomy.class);
    return p;
  }

  static Topology topology(Options o) {
    String layout = o.get("layout");
    boolean flat = o.get("format").equals("flat");
    var supplier =
        o.get("store").equals("memory")
            ? Stores.inMemoryKeyValueStore(STORE)
            : Stores.persistentKeyValueStore(STORE);
    var store = Stores.keyValueStoreBuilder(supplier, Serdes.Bytes(), Serdes.ByteArray());
    if (o.number("cache-mib") > 0) store = store.withCachingEnabled();
    return new Topology()
        .addSource("t", new StringDeserializer(), new ByteArrayDeserializer(), o.get("touches"))
        .addSource("c", new StringDeserializer(), new ByteArrayDeserializer(), o.get("conversions"))
        .addProcessor("touches", () -> new Touches(layout), "t")
        .addProcessor("conversions", () -> new Conversions(layout, flat), "c")
        .addStateStore(store, "touches", "conversions")
        .addSink("out", o.get("output"), new StringSerializer(), new ByteArraySerializer(), "conversions");
  }

  public static void main(String[] arguments) {
    Options o = new Options(arguments);
    KafkaStreams streams = new KafkaStreams(topology(o), properties(o));
    Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
    streams.start();
  }
}
