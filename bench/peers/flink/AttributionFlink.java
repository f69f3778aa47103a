import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.DataStreamUtils;
import org.apache.flink.streaming.api.datastream.KeyedStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.co.KeyedCoProcessFunction;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;

/**
 * Flink in one process, exactly-once: touches into list state, conversions wait on an event-time timer, credits go out in
 * the Kafka transaction of the next checkpoint. The sources are bounded, since nothing else makes the last timers fire.
 * With parallelism 1, {@code --keyed forward} spares the hash shuffle.
 */
public class AttributionFlink {
  static final Duration DISORDER = Duration.ofSeconds(1);

  static class Touches implements KafkaRecordDeserializationSchema<Attribution.Touch> {
    public void deserialize(ConsumerRecord<byte[], byte[]> r, Collector<Attribution.Touch> out) throws IOException {
      Options.fetched();
      out.collect(Attribution.touch(r.value()));
    }

    public TypeInformation<Attribution.Touch> getProducedType() {
      return Types.POJO(Attribution.Touch.class);
    }
  }

  static class Conversions implements KafkaRecordDeserializationSchema<Attribution.Conversion> {
    public void deserialize(ConsumerRecord<byte[], byte[]> r, Collector<Attribution.Conversion> out)
        throws IOException {
      Options.fetched();
      out.collect(Attribution.conversion(r.value()));
    }

    public TypeInformation<Attribution.Conversion> getProducedType() {
      return Types.POJO(Attribution.Conversion.class);
    }
  }

  /** A produced record between operator and sink. */
  public static class Output {
    public String key;
    public byte[] value;

    public Output() {}

    Output(String key, byte[] value) {
      this.key = key;
      this.value = value;
    }
  }

  static class Credit
      extends KeyedCoProcessFunction<String, Attribution.Touch, Attribution.Conversion, Output> {
    private final boolean flat;
    private transient ListState<Attribution.Touch> touches;
    private transient ListState<Attribution.Conversion> waiting;

    Credit(boolean flat) {
      this.flat = flat;
    }

    public void open(OpenContext context) {
      touches =
          getRuntimeContext().getListState(new ListStateDescriptor<>("touches", Types.POJO(Attribution.Touch.class)));
      waiting =
          getRuntimeContext()
              .getListState(new ListStateDescriptor<>("waiting", Types.POJO(Attribution.Conversion.class)));
    }

    public void processElement1(Attribution.Touch t, Context context, Collector<Output> out) throws Exception {
      touches.add(t);
    }

    public void processElement2(Attribution.Conversion c, Context context, Collector<Output> out) throws Exception {
      waiting.add(c);
      context.timerService().registerEventTimeTimer(c.ms);
    }

    public void onTimer(long now, OnTimerContext context, Collector<Output> out) throws Exception {
      List<Attribution.Conversion> later = new ArrayList<>();
      for (Attribution.Conversion c : waiting.get()) {
        if (c.ms > now) later.add(c);
        else credit(c, out);
      }
      waiting.update(later);
    }

    private void credit(Attribution.Conversion c, Collector<Output> out) throws Exception {
      List<Attribution.Touch> path = new ArrayList<>();
      for (Attribution.Touch t : touches.get()) path.add(t);
      Attribution.select(path, c.ms);
      if (!path.isEmpty()) Attribution.credit(c, path, flat, (k, v) -> out.collect(new Output(k, v)));
    }
  }

  static <T> KafkaSource<T> source(Options o, String topic, KafkaRecordDeserializationSchema<T> schema) {
    return KafkaSource.<T>builder()
        .setBootstrapServers(o.get("broker"))
        .setTopics(o.get(topic))
        .setStartingOffsets(OffsetsInitializer.earliest())
        .setBounded(OffsetsInitializer.latest())
        .setProperty("max.poll.records", "5000")
        .setProperty("max.partition.fetch.bytes", String.valueOf(4 << 20))
        .setDeserializer(schema)
        .build();
  }

  static KafkaSink<Output> sink(Options o) {
    Properties p = new Properties();
    p.put("compression.type", o.get("codec"));
    p.put("linger.ms", "20");
    p.put("batch.size", "262144");
    p.put("buffer.memory", String.valueOf(64 << 20));
    p.put("transaction.timeout.ms", "60000");
    String topic = o.get("output");
    return KafkaSink.<Output>builder()
        .setBootstrapServers(o.get("broker"))
        .setKafkaProducerConfig(p)
        .setTransactionalIdPrefix(o.get("id"))
        .setDeliveryGuarantee(DeliveryGuarantee.EXACTLY_ONCE)
        .setRecordSerializer(
            (x, context, now) -> new ProducerRecord<>(topic, x.key.getBytes(StandardCharsets.UTF_8), x.value))
        .build();
  }

  static Configuration configuration(Options o) {
    Configuration c = new Configuration();
    c.setString("state.backend.type", o.get("backend"));
    c.setString("execution.checkpointing.incremental", "true");
    c.setString("execution.checkpointing.storage", "filesystem");
    c.setString("execution.checkpointing.dir", "file://" + o.get("state-dir"));
    c.setString("taskmanager.memory.managed.size", "512m");
    c.setString("taskmanager.memory.network.max", "128m");
    c.setString("taskmanager.memory.network.min", "128m");
    c.setString("rest.bind-address", "127.0.0.1");
    c.setString("rest.bind-port", "0");
    return c;
  }

  public static void main(String[] arguments) throws Exception {
    Options o = new Options(arguments);
    int parallelism = o.number("parallelism");
    StreamExecutionEnvironment e =
        StreamExecutionEnvironment.createLocalEnvironment(parallelism, configuration(o));
    e.enableCheckpointing(o.number("checkpoint-ms"));
    e.getConfig().enableObjectReuse();
    DataStream<Attribution.Touch> touches =
        e.fromSource(
            source(o, "touches", new Touches()),
            WatermarkStrategy.<Attribution.Touch>forBoundedOutOfOrderness(DISORDER)
                .withTimestampAssigner((t, r) -> t.ms),
            "touches");
    DataStream<Attribution.Conversion> conversions =
        e.fromSource(
            source(o, "conversions", new Conversions()),
            WatermarkStrategy.<Attribution.Conversion>forBoundedOutOfOrderness(DISORDER)
                .withTimestampAssigner((c, r) -> c.ms),
            "conversions");
    boolean forward = o.get("keyed").equals("forward") && parallelism == 1;
    KeyedStream<Attribution.Touch, String> t =
        forward ? DataStreamUtils.reinterpretAsKeyedStream(touches, x -> x.person) : touches.keyBy(x -> x.person);
    KeyedStream<Attribution.Conversion, String> c =
        forward
            ? DataStreamUtils.reinterpretAsKeyedStream(conversions, x -> x.person)
            : conversions.keyBy(x -> x.person);
    t.connect(c).process(new Credit(o.get("format").equals("flat"))).sinkTo(sink(o));
    e.execute();
    System.exit(0);
  }
}
