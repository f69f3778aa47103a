import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.atomic.AtomicBoolean;

/** {@code --name value} pairs, and the one line that the harness reads. */
final class Options {
  private static final AtomicBoolean FETCHED = new AtomicBoolean();
  private final Map<String, String> values = new HashMap<>();

  Options(String[] arguments) {
    for (int i = 0; i + 1 < arguments.length; i += 2) values.put(arguments[i].substring(2), arguments[i + 1]);
  }

  String get(String name) {
    String value = values.get(name);
    if (value == null) throw new IllegalArgumentException("missing --" + name);
    return value;
  }

  int number(String name) {
    return Integer.parseInt(get(name));
  }

  /** Says once, with the wall clock, that the first record has come. */
  static void fetched() {
    if (!FETCHED.get() && FETCHED.compareAndSet(false, true)) {
      System.out.println("first-fetch " + System.currentTimeMillis());
      System.out.flush();
    }
  }
}
